"""Precision: the dtypes and flags of autocast, scalers and parameters, and what runs under them."""
