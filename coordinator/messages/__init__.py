"""From a call of a task to a message that the ledger dispatches."""
