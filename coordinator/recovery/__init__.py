"""How the store follows the ledger, and how what was lost comes back."""
