"""What operators ask and do, one file per matter; the work queue brings them together."""
