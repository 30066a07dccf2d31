#!/usr/bin/env bash
# A job of one GPU: sbatch slurm.sh [key=value …]
# Many runs as jobs of their own: graft train -m hydra/launcher=slurm experiment=first optimizer.lr=0.001,0.003
#SBATCH --job-name=first
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=01:00:00
#SBATCH --output=slurm-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
# source venv/bin/activate
exec graft train experiment=first hydra.run.dir="outputs/${SLURM_JOB_ID:-local}" "$@"
