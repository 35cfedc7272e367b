"""The worker's side: claim, run, renew, fence, finish."""
