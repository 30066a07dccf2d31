"""What a sweep needs beyond Hydra and Optuna: a ledger of trials that survives whatever ends a process."""
