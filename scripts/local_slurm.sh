#!/usr/bin/env bash
# A SLURM of one node on this machine, from Debian's packages, without systemd: to try hydra/launcher=slurm, and for the tests.
#   eval "$(bash scripts/local_slurm.sh start)"     seconds; prints what to export; running already, it is left as it is
#   bash scripts/local_slurm.sh stop                ends its jobs and its daemons, and removes its folder
# As root it installs the packages that are missing. Partitions: main, and urgent, whose jobs take the nodes of main's, which
# are queued again. Two pretend GPUs (clones of /dev/null), where device files may be made: jobs get CUDA_VISIBLE_DEVICES.
#   LOCAL_SLURM       its folder ($TMPDIR/local-slurm-USER)
#   LOCAL_SLURM_PORT  the first of its two ports (16817)
set -euo pipefail

place=${LOCAL_SLURM:-${TMPDIR:-/tmp}/local-slurm-$(id -un)}
port=${LOCAL_SLURM_PORT:-16817}
host=$(hostname -s)
socket=$place/munge.socket
export SLURM_CONF=$place/slurm.conf

say() { echo "local_slurm: $*" >&2; }
fail() { say "$*"; exit 1; }

pid_of() {  # of a daemon of ours that lives; a file that a dead one left behind does not count
  local pid
  pid=$(cat "$place/$1.pid" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ] && echo "$pid"
}

node_state() { timeout 5 sinfo --noheader --partition=main --format=%T 2>/dev/null || true; }

install_packages() {
  local missing=()
  for program in slurmctld slurmd munge; do
    PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || missing+=("$program")
  done
  command -v sbatch >/dev/null || missing+=(slurm-client)
  [ ${#missing[@]} -eq 0 ] && return
  [ "$(id -u)" = 0 ] || fail "expected the packages ${missing[*]}, received none, and only root can install them"
  command -v apt-get >/dev/null || fail "expected the programs ${missing[*]}, received a system without apt-get"
  say "installing ${missing[*]}"
  apt update && apt install -y --no-install-recommends "${missing[@]}" ||
    fail "apt-get could not install ${missing[*]}: $(tail -n 1 "$place/apt.log")"
}

apt() {  # for up to five minutes tried again while another program holds one of apt's locks
  local end=$((SECONDS + 300))
  until DEBIAN_FRONTEND=noninteractive timeout 300 apt-get "$@" >"$place/apt.log" 2>&1; do
    grep -qE "Could not get lock|Unable to (acquire|lock)" "$place/apt.log" && [ $SECONDS -lt $end ] || return 1
    say "another program uses apt; waiting for it"
    sleep 2
  done
}

configure() {
  local gpus=""
  for number in 0 1; do
    [ -c "$place/gpu$number" ] || mknod "$place/gpu$number" c 1 3 2>/dev/null || true
  done
  rm -f "$place/gres.conf"
  if [ -c "$place/gpu1" ]; then
    gpus="Gres=gpu:2"
    echo "NodeName=$host Name=gpu File=$place/gpu[0-1]" >"$place/gres.conf"
  fi
  echo "CgroupAutomount=no" >"$place/cgroup.conf"
  cat >"$SLURM_CONF" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
# A job that was requeued starts as soon as its credential of before has expired: after two minutes by default.
AuthInfo=socket=$socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
SlurmctldLogFile=$place/slurmctld.log
SlurmdLogFile=$place/slurmd.log
SlurmctldPort=$port
SlurmdPort=$((port + 1))
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
SlurmdParameters=config_overrides
# Quick to react.
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,requeue_delay=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=15
MinJobAge=3600
ReturnToService=2
SlurmdTimeout=300
MaxArraySize=1001
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 RealMemory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo) $gpus State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=$host MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
}

start() {
  mkdir -p "$place"/{state,spool,munge}
  chmod 755 "$place"
  chmod 700 "$place/munge"
  exec 9>"$place/starting"  # one at a time: whoever comes second finds it running
  flock 9
  install_packages
  export PATH=$PATH:/usr/sbin
  [ -n "$(pid_of slurmctld)" ] || configure
  if [ -z "$(pid_of munged)" ]; then
    [ -s "$place/munge/key" ] || (umask 077 && head -c 1024 /dev/urandom >"$place/munge/key")
    rm -f "$socket"*
    # --force: root, and a folder below /tmp
    munged --force --key-file="$place/munge/key" --socket="$socket" --pid-file="$place/munged.pid" \
      --log-file="$place/munged.log" --seed-file="$place/munge/seed" >&2 9>&-
  fi
  [ -n "$(pid_of slurmctld)" ] || slurmctld -i >&2 9>&-
  [ -n "$(pid_of slurmd)" ] || slurmd >&2 9>&-
  for _ in $(seq 150); do
    case "$(node_state)" in
      idle | mixed | allocated) echo "export SLURM_CONF=$SLURM_CONF"; return ;;
      down* | drain*) scontrol update nodename="$host" state=resume 2>/dev/null || true ;;
    esac
    sleep 0.2
  done
  tail -n 15 "$place"/*.log >&2
  fail "its node is $(node_state) after half a minute; the logs above are those in $place"
}

stop() {
  [ -d "$place" ] || { say "none runs in $place"; return; }
  if [ -n "$(pid_of slurmctld)" ]; then
    timeout 5 scancel --user="$(id -un)" >/dev/null 2>&1 || true
    for _ in $(seq 100); do
      [ -z "$(timeout 5 squeue --noheader 2>/dev/null)" ] && break
      sleep 0.2
    done
  fi
  for daemon in slurmd slurmctld munged; do
    pid=$(pid_of "$daemon") || continue
    kill "$pid"
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
  done
  rm -rf "$place"
}

[ "${BASH_SOURCE[0]}" = "$0" ] || return 0  # its functions are wanted

case "${1:-}" in
  start) start ;;
  stop) stop ;;
  *) fail "expected start or stop, received '${1:-}'" ;;
esac
