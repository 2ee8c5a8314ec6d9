"""What the ledger says about promises over time, and what people do about them."""
