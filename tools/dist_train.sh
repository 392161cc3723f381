#!/usr/bin/env bash
# Train with several processes on one or more machines.
#   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# GPUS is the number of processes on this machine; where there is no GPU they
# run on the CPU. For several machines set NNODES, NODE_RANK and MASTER_ADDR,
# for a second run on the same machine PORT.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [options of tools/train.py]" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
TOOLS=$(dirname "$0")

exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$TOOLS/train.py" "$CONFIG" --launcher pytorch "${@:3}"
