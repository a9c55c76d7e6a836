#!/usr/bin/env bash
# A SLURM of one node on this machine, without accounting, for tests: slurm.sh start FOLDER | stop FOLDER
# Needs Debian's slurmctld, slurmd, munge and root. FOLDER holds all of it but the link /etc/slurm/slurm.conf, which must not be
# there: Snakemake's executor drops every SLURM_ variable, SLURM_CONF too.
set -euo pipefail
folder=$(realpath -m -- "$2")
host=$(hostname -s)

conf=/etc/slurm/slurm.conf

start() {
    [ ! -e "$conf" ] || { echo "$conf is there: this machine has a SLURM of its own" >&2; return 1; }
    mkdir -p "$folder"/{state,spool,log}
    # munge's key, socket and their parents must belong to whom it runs as
    install -d -m 755 "$folder/munge"
    head -c 1024 /dev/urandom > "$folder/munge/key"
    chmod 600 "$folder/munge/key"
    munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
        --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
    cat > "$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
EnforcePartLimits=NO
KillWait=30
SchedulerParameters=sched_interval=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 State=UNKNOWN
PartitionName=cpu Nodes=$host Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=$host MaxTime=INFINITE State=UP
PartitionName=minutes Nodes=$host MaxTime=2 State=UP
PartitionName=empty MaxTime=INFINITE State=UP
PartitionName=down Nodes=$host State=DOWN
CONF
    mkdir -p /etc/slurm
    ln -sfn "$folder/slurm.conf" "$conf"
    slurmctld
    slurmd
    for _ in $(seq 60); do
        [ "$(sinfo --noheader --nodes="$host" --format=%T 2>/dev/null | sort -u)" = idle ] && return
        sleep 1
    done
    tail -5 "$folder"/log/* >&2
    stop
    return 1
}

stop() {
    scancel --user="$(id -un)" 2>/dev/null || true
    for name in slurmd slurmctld munge/; do
        file=$folder/${name%/}.pid
        [ "$name" = munge/ ] && file=$folder/munge/pid
        [ -f "$file" ] || continue
        pid=$(cat "$file")
        kill "$pid" 2>/dev/null || continue
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null || true
    done
    [ "$(readlink "$conf")" != "$folder/slurm.conf" ] || rm -f -- "$conf"
}

case $1 in
    start | stop) "$1" ;;
    *) echo "slurm.sh start FOLDER | stop FOLDER" >&2; exit 2 ;;
esac
