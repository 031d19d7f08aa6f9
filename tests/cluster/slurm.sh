#!/usr/bin/env bash
# Runs a command beside a SLURM cluster of two nodes, node1 and node2, on this machine's loopback, as root:
#
#     tests/cluster/slurm.sh FOLDER COMMAND ...      # such as sbatch --wait cluster/train.slurm
#
# Debian's slurm-wlm and munge with all their files in FOLDER, a new one; nothing of them outlives the command. Others
# reach it by SLURM_CONF=FOLDER/slurm.conf. A job of its partition `urgent` preempts those of the other one.
set -euo pipefail
if [[ -z "${SLURM_IN_ITS_OWN_NAMESPACES:-}" ]]; then
    # In mounts of its own the nodes have names; among processes of its own everything ends when the command has.
    exec env SLURM_IN_ITS_OWN_NAMESPACES=1 unshare --mount --pid --fork --kill-child --mount-proc "$0" "$@"
fi
folder="$(mkdir -p "$1" && cd "$1" && pwd)"
shift
host="$(hostname -s)"
read -r control first second < <(python3 - <<'PYTHON'
import socket
some = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*[one.getsockname()[1] for one in some])
PYTHON
)
cp /etc/hosts "$folder/hosts"
printf '127.0.0.1 node1\n127.0.0.2 node2\n' >> "$folder/hosts"
mount --bind "$folder/hosts" /etc/hosts

mkdir -p "$folder"/{munge,state,node1,node2}
chmod 700 "$folder/munge"
(umask 077 && head -c 1024 /dev/urandom > "$folder/munge/key")
cat > "$folder/slurm.conf" <<CONFIG
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$control
SlurmUser=root
AuthInfo=socket=$folder/munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdSpoolDir=$folder/%n
SlurmdPidFile=$folder/%n.pid
SlurmdLogFile=$folder/%n.log
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$first CPUs=1 RealMemory=1000
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.2 Port=$second CPUs=1 RealMemory=1000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes=node[1-2] Default=YES MaxTime=60 PriorityTier=1 GraceTime=60 State=UP
PartitionName=urgent Nodes=node[1-2] MaxTime=60 PriorityTier=2 PreemptMode=OFF State=UP
CONFIG
export SLURM_CONF="$folder/slurm.conf"

munged --foreground --force --socket="$folder/munge/socket" --key-file="$folder/munge/key" \
    --pid-file="$folder/munge/pid" --seed-file="$folder/munge/seed" --log-file="$folder/munge/log" 2> "$folder/munge/err" &
until [[ -S "$folder/munge/socket" ]]; do sleep 0.1; done
slurmctld -D &> /dev/null &
slurmd -D -N node1 &> "$folder/node1.err" &
slurmd -D -N node2 &> "$folder/node2.err" &
for _ in $(seq 300); do
    if [[ "$(sinfo --noheader --format=%T%D 2> /dev/null)" == idle2 ]]; then
        status=0
        "$@" || status=$?
        exit "$status"
    fi
    sleep 0.1
done
echo "the nodes did not come up within 30 s:" >&2
tail -n 5 "$folder"/*.log "$folder"/*.err >&2
exit 1
