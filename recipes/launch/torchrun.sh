#!/usr/bin/env bash
# torchrun: one training on all GPUs of a machine, or of several machines that share a file system.
#
#   bash torchrun.sh mine.yaml                                        one machine, every GPU
#   RUN=first NODES=2 HEAD=node1:29500 bash torchrun.sh mine.yaml     the same on each of two; node1 is one of them
#   PROCESSES=2 bash torchrun.sh mine.yaml --trainer.accelerator=cpu  without a GPU
#
# What comes after the recipe are options of 'tlkit fit'. With RESTARTS=3 torchrun starts all processes again, up to three
# times, when one dies; they then go on from last.ckpt, and so does this script when it is started again with the same RUN.
# ModelSelection writes last.ckpt after every validation, or as often as you say:
#   --trainer.callbacks='[{class_path: ModelSelection, init_args: {every_n_steps: 500}}]'
set -euo pipefail
recipe=${1:?usage: bash torchrun.sh RECIPE [options of tlkit fit]}
shift
if [ "${NODES:-1}" != 1 ]; then
  : "${RUN:?set RUN to a name for this run, the same on every machine}" "${HEAD:?set HEAD to host:port of one machine}"
fi
# Without it the processes that are started again look for the dead ones: https://github.com/pytorch/pytorch/issues/135712
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
run=${RUN:-$(date -u +%Y%m%d-%H%M%S)-$$}

exec torchrun --nnodes="${NODES:-1}" --nproc-per-node="${PROCESSES:-gpu}" --max-restarts="${RESTARTS:-0}" \
  --rdzv-backend=c10d --rdzv-endpoint="${HEAD:-localhost:0}" --rdzv-id="$run" \
  -m tlkit.cli fit --config "$recipe" --run_id="$run" --resume=auto "$@"
