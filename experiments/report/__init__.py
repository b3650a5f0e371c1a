"""The ledger of all claims as one self-contained page of HTML."""
