"""python train.py …: in the repository, the same as `graft train …`."""

from __future__ import annotations

from graft.commands.train import job, main

__all__ = ["job", "main"]

if __name__ == "__main__":
    main()
