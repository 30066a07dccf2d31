"""What a cluster job needs beyond submitit and SLURM.

A job is an attempt at a trial, made elsewhere: this room stands on sweep/, and nothing there knows of it.
"""
