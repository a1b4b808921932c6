#!/usr/bin/env bash
# A run on the nodes of a Slurm allocation, which share a file system:
#
#   sbatch --nodes=4 launch/slurm.sh +benchmark=tpcds target=100000 run_dir=/shared/pools/tpcds
#
# Start it from the checkout, with its .venv made (`make setup`). A job that reached its time limit goes on with the same
# command: what is committed stays.
#SBATCH --job-name=rayfactory
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --output=rayfactory-%j.log
# With GPUs for the models: #SBATCH --gpus-per-node=4
set -euo pipefail

if [ $# -eq 0 ]; then
    echo 'slurm.sh: say what to do, as in: sbatch launch/slurm.sh +benchmark=tpcds run_dir=/shared/pools/tpcds' >&2
    exit 2
fi
cd "${SLURM_SUBMIT_DIR:?run it with sbatch}"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# The first address that other nodes may reach: not that of the machine to itself, and IPv4.
ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --all-ip-addresses | tr ' ' '\n' | grep -E -m 1 '^[0-9.]+$')

# One token for the job's own cluster, on other people's network. It is not on any command line.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(.venv/bin/python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

# Ray looks for its own commands there; and from a shared file system it takes a while to come up.
export PATH="$PWD/.venv/bin:$PATH"
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
exec srun --export=ALL --cpus-per-task="$SLURM_CPUS_PER_TASK" ray symmetric-run \
    --address "$ip:6379" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus "$SLURM_CPUS_PER_TASK" \
    -- python -m rayfactory cluster=existing display.mode=lines "$@"
