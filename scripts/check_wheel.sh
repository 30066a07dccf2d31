#!/usr/bin/env bash
# Builds the wheel, installs it into a fresh environment, and runs what README's first command runs, from an empty folder,
# then what `graft new` writes:
#   scripts/check_wheel.sh [FOLDER]     the wheel and the source archive stay in FOLDER (a temporary one)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

unset PYTHONPATH  # by which pip would take these sources for an installation
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
constraints=$PWD/constraints.txt
out=$(realpath -m "${1:-$scratch/dist}")

python3 -m venv "$scratch/build"
"$scratch/build/bin/pip" install --quiet build
"$scratch/build/bin/python" -m build --outdir "$out" . >"$scratch/build.log" 2>&1 || { cat "$scratch/build.log"; exit 1; }
wheel=$(ls -t "$out"/*.whl | head -1)

python3 -m venv "$scratch/user"
"$scratch/user/bin/pip" install --quiet -c "$constraints" "${wheel}[demo]"
mkdir "$scratch/empty"
cd "$scratch/empty"
graft="$scratch/user/bin/graft"
"$graft" train --help >/dev/null
"$graft" plan backbone=resnet50 donor=none freeze=none head=linear data.image_size=64 >/dev/null
"$graft" train hydra.run.dir=first
test -s first/model/model.safetensors
test -s first/report.html
"$graft" new project >/dev/null
cd project
"$scratch/user/bin/pip" install --quiet -c "$constraints" "${wheel}[sweep]" pytest
"$graft" train experiment=first hydra.run.dir=first
"$graft" train -m experiment=first optimizer.lr=0.001,0.003 trainer.max_epochs=2
"$graft" export --import-code first
test -s first/model/export-safetensors/model.safetensors
"$scratch/user/bin/python" -m pytest --quiet
echo "wheel     $(basename "$wheel") trains from an empty folder, and so does a project of its own"
