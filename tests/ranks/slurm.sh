#!/usr/bin/env bash
# slurm.sh PROBE: a Slurm of one node in a temporary folder (Debian: slurmctld slurmd slurm-client munge), and the probe started in it by srun.
# Ends with 77 where that cannot be had.
set -u
probe=$1
skip() { echo "skipped: $*"; exit 77; }
for program in srun slurmctld slurmd munged; do
  PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || skip "no $program"
done
PATH=$PATH:/usr/sbin
((EUID == 0)) || skip "Slurm's daemons want to be root here"
folder=$(mktemp -d)
pids=()
cleanup() {
  for pid in "$folder"/{d,ctld,munged}.pid; do [[ -s $pid ]] && kill "$(cat "$pid")" 2>/dev/null; done
  sleep 1
  rm -rf "$folder"
}
trap cleanup EXIT
mkdir "$folder/state" "$folder/spool" "$folder/munge"
chmod 755 "$folder" "$folder/munge"
# An own munge: root's, with a key and a socket of its own.
head -c 1024 /dev/urandom >"$folder/munge/key"
chmod 600 "$folder/munge/key"
munged --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munged.pid" --log-file="$folder/munge/log" \
  --seed-file="$folder/munge/seed" --force >/dev/null 2>&1 || skip "munged does not start"
host=$(hostname -s)
cat >"$folder/slurm.conf" <<CONFIG
ClusterName=miq
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((20000 + $$ % 10000))
SlurmdPort=$((30000 + $$ % 10000))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/ctld.pid
SlurmdPidFile=$folder/d.pid
SlurmctldLogFile=$folder/ctld.log
SlurmdLogFile=$folder/d.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=$host Default=YES State=UP OverSubscribe=YES
CONFIG
export SLURM_CONF=$folder/slurm.conf
srun --mpi=list 2>&1 | grep -q pmix || skip "this Slurm has no PMIx"
slurmctld >/dev/null 2>&1 && slurmd >/dev/null 2>&1 || skip "Slurm's daemons do not start"
for _ in $(seq 50); do
  sinfo -h -o %T 2>/dev/null | grep -q idle && break
  sleep 0.3
done
sinfo -h -o %T 2>/dev/null | grep -q idle || skip "Slurm's node does not come up"
output=$(timeout 60 srun --overcommit --mpi=pmix -n 2 "$probe" operations "$folder" 2>&1)
echo "$output"
[[ $output == "ranks 2 good" ]] || exit 1
# An error of one process ends both.
output=$(timeout 60 srun --overcommit --mpi=pmix -n 2 "$probe" error "$folder" 2>&1)
status=$?
echo "$output"
((status != 0 && status != 124)) || exit 1
(($(grep -c "process 2 of 2: the last one cannot go on" <<<"$output") == 1)) || exit 1
