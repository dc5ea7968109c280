#!/usr/bin/env bash
# The paper on nodes that Slurm gives: a Ray head on the first, workers on the others, then `make paper` on the first.
#   make .venv/installed && .venv/bin/python -m pip install --editable '.[cluster,gpu]'    once, in the project's folder
#   PROFILE=paper GPU=h100 sbatch --nodes=2 --time=24:00:00 cluster/slurm.sh               from there; all nodes see it
#SBATCH --job-name=response-priming
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --output=response-priming-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?not set: start this by sbatch}"
export PATH="$PWD/.venv/bin:$PATH"
profile=${PROFILE:-paper} port=${PORT:-6379}

# The price, before anything is started; it refuses a profile that does not fit such GPUs.
make cost PROFILE="$profile" GPU="${GPU:-}"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# A step gets one CPU unless it asks for more, whatever the job has.
step=(srun --overlap --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_ON_NODE:-1}")
read -r address _ < <("${step[@]}" --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname --ip-address)

# Whatever ends this script ends Ray on all nodes, and the exit code stays.
trap 'code=$?; trap - EXIT; kill $(jobs -p) 2> /dev/null || true; wait || true; exit "$code"' EXIT
trap 'exit 143' TERM

export RAY_ADDRESS=$address:$port
# Whoever reaches a Ray port may run anything there, so that the job has a token of its own.
RAY_AUTH_TOKEN=$(cat /proc/sys/kernel/random/uuid)
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
# Wait until so many nodes are there, or a step has ended.
joined() {
    until python -c 'import sys, ray; ray.init(logging_level="ERROR"); sys.exit(len(ray.nodes()) < int(sys.argv[1]))' \
        "$1" > /dev/null 2>&1; do
        kill -0 $! || { echo "slurm.sh: Ray ended on one of ${nodes[*]}" >&2; exit 1; }
        sleep "${PAUSE:-5}"
    done
}
"${step[@]}" --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" \
    ray start --head --block --node-ip-address="$address" --port="$port" --disable-usage-stats &
joined 1
if [ "${#nodes[@]}" -gt 1 ]; then
    others=$(IFS=,; echo "${nodes[*]:1}")
    "${step[@]}" --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --nodelist="$others" \
        ray start --block --address="$RAY_ADDRESS" --disable-usage-stats &
    joined "${#nodes[@]}"
fi
make paper PROFILE="$profile" CLUSTER=auto
