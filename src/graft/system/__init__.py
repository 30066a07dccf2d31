"""Files, locks, processes, signals, the machine and its clock."""
