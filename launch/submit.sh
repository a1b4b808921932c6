#!/usr/bin/env bash
# Runs rayfactory as a job of a Ray cluster, from any machine that reaches its dashboard:
#
#   RAY_ADDRESS=http://HEAD:8265 launch/submit.sh +benchmark=tpcds target=10000 run_dir=/pool/tpcds cluster.databases=shipped
#
# What follows the name is rayfactory's command line. The checkout goes with the job, without runs and environments; the
# packages that it needs have to be on the nodes. The job works on the head node, which a cluster keeps when its spot
# machines go, and its pool stays where `run_dir` says. The same command goes on where a job has ended.
#
# RAY_ADDRESS       of the dashboard; http://127.0.0.1:8265 where it is not set (`ray dashboard launch/ray/aws.yaml` forwards it)
# RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token: the cluster's token
# ENTRYPOINT_CPUS   CPUs that are set aside for the command itself; 0 where it is not set
# Keys of paid models are no part of a job, which the dashboard shows: they are in the environment of the head node.
set -euo pipefail

say() {
    printf 'submit.sh: %s\n' "$*" >&2
    exit 2
}

run_dir=''
for word in "$@"; do
    case "$word" in
    run_dir=*) run_dir=${word#run_dir=} ;;
    *://*:*@* | *base_url=*://*@* | *password=*) say "an address with a password would be shown in the dashboard; name the variable that has it" ;;
    *_KEY=* | *_TOKEN=*) say "${word%%=*} would be shown in the dashboard; set it in the environment of the head node" ;;
    esac
done
case "$run_dir" in
/*) ;;
'') say 'name where the pool is to be: run_dir=/a/folder/of/the/head/node' ;;
*) say "run_dir=$run_dir is relative to a folder that ends with the job; give a path that begins with /" ;;
esac

root=$(cd "$(dirname "$0")/.." && pwd)
export RAY_ADDRESS=${RAY_ADDRESS:-http://127.0.0.1:8265}
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
command -v ray >/dev/null || say 'the command ray is not here; install the version of constraints.txt, or activate .venv'
exec ray job submit \
    --working-dir "$root" \
    --runtime-env-json '{"excludes": ["/.git", "/.venv", "/runs", "/tests", "/benchmarks", "/docs", "/.*_cache"]}' \
    --entrypoint-resources '{"node:__internal_head__": 0.001}' \
    --entrypoint-num-cpus "${ENTRYPOINT_CPUS:-0}" \
    -- python -m rayfactory cluster=existing display.mode=lines "$@"
