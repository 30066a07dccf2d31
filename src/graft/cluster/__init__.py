"""Runs trials as cluster jobs, with what submitit and SLURM do not provide.

A job is an attempt at a trial on another machine. This package depends on sweep/, and sweep/ does not depend on it.
"""
