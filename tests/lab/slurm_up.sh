#!/usr/bin/env bash
# Bring up a REAL Slurm cluster (one "centre") on one host, without systemd and
# without containers.  Run again with another --cluster/--port-base for a second
# centre.  Idempotent: a daemon whose recorded pid is alive is left alone.
#
#   up.sh --cluster alpha --port-base 26000          # first centre
#   up.sh --cluster beta  --port-base 27000          # second centre
#   . $LAB_ROOT/alpha/env.sh ; sinfo                 # use it
#
# Needs: root, Debian 12 (Slurm 22.05).  Binds loopback only.
set -euo pipefail

LAB_ROOT=${LAB_ROOT:-$PWD/.slurm-lab}
CLUSTER=alpha
BASE=26000            # +17 slurmctld, +20 slurmrestd, +22 sshd, +101.. slurmd
SHARED_BASE=25800     # +6 mariadbd, +19 slurmdbd (shared by all centres of a LAB_ROOT)
NODES=4 CPUS=16 MEM=32000
MIN_JOB_AGE=300       # seconds a finished job stays visible to squeue/scontrol
SLURMD_TIMEOUT=30     # seconds until a silent node is DOWN (node-fail tests)
DBD=1 REST=1 SSH=1 OWN_MUNGE=0 CGROUP=0 LAB_USERS="lab_alice lab_bob lab_gw lab_noassoc"
EXTRA_CONF=''

usage() { sed -n '2,12p' "$0"; sed -n '/^LAB_ROOT=/,/^EXTRA_CONF/p' "$0"; exit "${1:-0}"; }
while [ $# -gt 0 ]; do case $1 in
  --root) LAB_ROOT=$2; shift;;          --cluster) CLUSTER=$2; shift;;
  --port-base) BASE=$2; shift;;         --shared-port-base) SHARED_BASE=$2; shift;;
  --nodes) NODES=$2; shift;;            --cpus) CPUS=$2; shift;;
  --mem) MEM=$2; shift;;                --min-job-age) MIN_JOB_AGE=$2; shift;;
  --slurmd-timeout) SLURMD_TIMEOUT=$2; shift;;
  --extra-conf) EXTRA_CONF=$2; shift;;  # lines appended to slurm.conf
  --own-munge) OWN_MUNGE=1;;            # a munge key of this centre's own
  --cgroup) CGROUP=1;;                  # task/cgroup: needs writable cgroups
  --no-dbd) DBD=0;; --no-rest) REST=0;; --no-ssh) SSH=0;;
  -h|--help) usage;; *) echo "unknown option $1" >&2; usage 2;;
esac; shift; done
[ "$(id -u)" = 0 ] || { echo "must be root" >&2; exit 1; }

command -v slurmctld >/dev/null || { echo "Slurm is not installed: run tests/lab/install.sh" >&2; exit 1; }

S=$LAB_ROOT/shared C=$LAB_ROOT/$CLUSTER HOST=$(hostname -s)
CTLD_PORT=$((BASE+17)) REST_PORT=$((BASE+20)) SSH_PORT=$((BASE+22)) SLURMD_PORT=$((BASE+101))
DB_PORT=$((SHARED_BASE+6)) DBD_PORT=$((SHARED_BASE+19))
umask 022
cd /    # slurmrestd gives its own working directory to jobs that name none
mkdir -p "$S"/{run,log,db,dbd} "$C"/{run,log,state,spool,ssh} "$LAB_ROOT"/home
chown slurm:slurm "$S/dbd" "$C/state" "$S/log" "$C/log" "$C/run" "$S/run"

# A killed daemon stays a zombie until pid 1 reaps it: that is dead.
alive() { [ -s "$1" ] && grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$(cat "$1")/status"; }
say() { printf '%-28s %s\n' "$1" "$2"; }
wait_for() { # wait_for WHAT SECONDS CMD...
  local what=$1 n=$(( $2 * 10 )); shift 2
  until "$@" >/dev/null 2>&1; do n=$((n-1)); [ $n -gt 0 ] || { echo "timeout: $what" >&2; exit 1; }; sleep 0.1; done
}

# ---------------------------------------------------------------- munge
start_munge() { # DIR PIDFILE
  local d=$1 p=$2
  mkdir -p "$d"; chown munge:munge "$d"; chmod 711 "$d"
  [ -s "$d/munge.key" ] || { mungekey --create --keyfile="$d/munge.key" --bits=1024; chown munge:munge "$d/munge.key"; chmod 600 "$d/munge.key"; }
  alive "$p" && { say munged "running ($(cat "$p"))"; return; }
  rm -f "$d/munge.sock" "$d/munge.sock.lock"
  # --force: a group-writable ancestor of LAB_ROOT makes munged refuse its files
  setpriv --reuid=munge --regid=munge --clear-groups munged --force \
     --socket="$d/munge.sock" --key-file="$d/munge.key" --pid-file="$d/munged.pid" \
     --log-file="$d/munged.log" --seed-file="$d/munge.seed" --num-threads=4
  wait_for munge.sock 10 test -S "$d/munge.sock"
  cp "$d/munged.pid" "$p"; say munged "started ($(cat "$p"))"
}
start_munge "$S/munge" "$S/run/munged.pid"
MUNGE=$S/munge/munge.sock
if [ $OWN_MUNGE = 1 ]; then start_munge "$C/munge" "$C/run/munged.pid"; MUNGE=$C/munge/munge.sock; fi

# ---------------------------------------------------------------- JWT key
[ -s "$S/jwt.key" ] || { head -c 32 /dev/urandom > "$S/jwt.key"; }
chown slurm:slurm "$S/jwt.key"; chmod 600 "$S/jwt.key"

# ---------------------------------------------------------------- database + slurmdbd
if [ $DBD = 1 ]; then
  if alive "$S/run/mariadbd.pid"; then say mariadbd "running ($(cat "$S/run/mariadbd.pid"))"; else
    chown -R mysql:mysql "$S/db"
    # A half-made database would be taken for a whole one at the next start.
    [ -d "$S/db/data/mysql" ] || mariadb-install-db --no-defaults --user=mysql --datadir="$S/db/data" \
        --auth-root-authentication-method=socket --skip-test-db >"$S/log/mariadb-install.log" 2>&1 \
        || { tail -n 20 "$S/log/mariadb-install.log" >&2; rm -rf "$S/db/data"; exit 1; }
    setsid mariadbd --no-defaults --user=mysql --datadir="$S/db/data" --socket="$S/db/mysql.sock" \
        --pid-file="$S/db/mariadbd.pid" --bind-address=127.0.0.1 --port=$DB_PORT \
        --innodb-buffer-pool-size=256M --innodb-log-file-size=64M --innodb-lock-wait-timeout=900 \
        --innodb-flush-log-at-trx-commit=2 --skip-log-bin --max-allowed-packet=64M \
        >"$S/log/mariadbd.log" 2>&1 </dev/null &
    echo $! > "$S/run/mariadbd.pid"
    wait_for mariadbd 60 mariadb-admin --no-defaults --socket="$S/db/mysql.sock" ping
    say mariadbd "started ($(cat "$S/run/mariadbd.pid"))"
  fi
  [ -s "$S/dbd/password" ] || { (umask 077; head -c 18 /dev/urandom | base64 | tr '+/' 'xy' > "$S/dbd/password"); }
  PW=$(cat "$S/dbd/password")
  mariadb --no-defaults --socket="$S/db/mysql.sock" -e "
    CREATE DATABASE IF NOT EXISTS slurm_acct_db;
    CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY '$PW';
    GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';"
  cat > "$S/dbd/slurmdbd.conf" <<CONF
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$DBD_PORT
SlurmUser=slurm
AuthType=auth/munge
AuthInfo=socket=$S/munge/munge.sock
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key=$S/jwt.key
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$DB_PORT
StorageUser=slurm
StoragePass=$PW
StorageLoc=slurm_acct_db
TrackWCKey=yes
LogFile=$S/log/slurmdbd.log
PidFile=$S/dbd/slurmdbd.pid
DebugLevel=info
CONF
  chown slurm:slurm "$S/dbd/slurmdbd.conf"; chmod 600 "$S/dbd/slurmdbd.conf"   # slurmdbd refuses anything wider
  if alive "$S/run/slurmdbd.pid"; then say slurmdbd "running ($(cat "$S/run/slurmdbd.pid"))"; else
    # slurmdbd has no -f: it reads slurmdbd.conf from the directory of $SLURM_CONF
    SLURM_CONF=$S/dbd/slurm.conf setsid slurmdbd -D >"$S/log/slurmdbd.out" 2>&1 </dev/null &
    echo $! > "$S/run/slurmdbd.pid"
    wait_for slurmdbd 60 bash -c "exec 3<>/dev/tcp/127.0.0.1/$DBD_PORT"
    say slurmdbd "started ($(cat "$S/run/slurmdbd.pid"))"
  fi
fi

# ---------------------------------------------------------------- slurm.conf
TMPCONF=$(mktemp)
{ cat <<CONF
ClusterName=$CLUSTER
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$CTLD_PORT
SlurmUser=slurm
AuthType=auth/munge
# cred_expire: how long a requeued job waits before it starts again (default 120 s)
AuthInfo=socket=$MUNGE,cred_expire=10
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key=$S/jwt.key
StateSaveLocation=$C/state
SlurmdSpoolDir=$C/spool/%n
SlurmctldPidFile=$C/run/slurmctld.pid
SlurmdPidFile=$C/run/slurmd.%n.pid
SlurmctldLogFile=$C/log/slurmctld.log
SlurmdLogFile=$C/log/slurmd.%n.log
SlurmctldDebug=info
SlurmdDebug=info
MpiDefault=none
MailProg=/bin/true
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=2
PriorityType=priority/multifactor
PriorityWeightQOS=1000
KillWait=8
MessageTimeout=10
SlurmdTimeout=$SLURMD_TIMEOUT
MinJobAge=$MIN_JOB_AGE
MaxJobCount=60000
MaxArraySize=20001
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
EpilogMsgTime=0
CONF
if [ $CGROUP = 1 ]; then echo "ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup"; else echo "ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherParams=OverMemoryKill"; fi
if [ $DBD = 1 ]; then cat <<CONF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$DBD_PORT
AccountingStorageEnforce=associations,limits,qos
AccountingStoreFlags=job_comment,job_script,job_env
TrackWCKey=yes
# The slurmdbd connection does NOT use AuthInfo: without this it asks the default
# /run/munge socket.  It also lets a centre with a munge key of its own share slurmdbd.
AccountingStoragePass=$S/munge/munge.sock
CONF
fi
for i in $(seq 1 "$NODES"); do
  echo "NodeName=$CLUSTER-n$i NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((SLURMD_PORT+i-1)) CPUs=$CPUS Boards=1 SocketsPerBoard=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEM State=UNKNOWN"
done
cat <<CONF
PartitionName=normal Nodes=ALL Default=YES MaxTime=2-00:00:00 DefaultTime=00:10:00 State=UP TRESBillingWeights="CPU=1.0,Mem=0.25G"
PartitionName=short Nodes=ALL MaxTime=00:05:00 DefaultTime=00:01:00 PriorityTier=10 State=UP
PartitionName=restricted Nodes=ALL AllowAccounts=proj2 MaxTime=01:00:00 State=UP
PartitionName=closed Nodes=ALL MaxTime=01:00:00 State=INACTIVE
CONF
[ -n "$EXTRA_CONF" ] && printf '%s\n' "$EXTRA_CONF"
true; } > "$TMPCONF"
CHANGED=0; cmp -s "$TMPCONF" "$C/slurm.conf" 2>/dev/null || CHANGED=1
cp "$TMPCONF" "$C/slurm.conf"; rm -f "$TMPCONF"; chmod 644 "$C/slurm.conf"
# slurmd 22.05 loads a cgroup plugin even when nothing uses it: autodetect then dies where
# /sys/fs/cgroup is absent, or is v2 without systemd.  Naming v1 gets past that.
if [ $CGROUP = 1 ]; then echo 'CgroupAutomount=no
ConstrainCores=no
ConstrainRAMSpace=yes
ConstrainSwapSpace=no'; else echo 'CgroupPlugin=cgroup/v1'; fi > "$C/cgroup.conf"
cat > "$C/env.sh" <<CONF
export SLURM_CONF=$C/slurm.conf LAB_CLUSTER=$CLUSTER LAB_ROOT=$LAB_ROOT LAB_SHARED=$S
export LAB_REST=http://127.0.0.1:$REST_PORT LAB_SSH_PORT=$SSH_PORT LAB_CTLD_PORT=$CTLD_PORT LAB_DBD_PORT=$DBD_PORT
export MUNGE_SOCKET=$MUNGE
CONF
export SLURM_CONF=$C/slurm.conf

# ---------------------------------------------------------------- test users
U=6400
exec 9>/var/tmp/penstock-lab-users; flock 9   # labs that start at once would each add them
for u in $LAB_USERS; do
  U=$((U+1))
  id "$u" >/dev/null 2>&1 || useradd --uid $U --create-home --home-dir "$LAB_ROOT/home/$u" --shell /bin/bash --password '*' "$u"
  # The users are the machine's: their home may lie in another lab's folder, which that lab may have wiped.
  home=$(getent passwd "$u" | cut -d: -f6)
  mkdir -p "$LAB_ROOT/home/$u" "$home"; chown "$u:" "$LAB_ROOT/home/$u" "$home"
done
exec 9>&-

# ---------------------------------------------------------------- associations (before slurmctld: it then registers a known cluster)
KNOWN=$S/db/associations-of-$CLUSTER
if [ $DBD = 1 ] && [ ! -e "$KNOWN" ]; then
  m() { sacctmgr -i -Q "$@" >/dev/null 2>>"$C/log/sacctmgr.log" || true; }   # 'already exists' exits 1
  m add cluster "$CLUSTER"
  m add qos debug Priority=100 MaxSubmitJobsPerUser=5 MaxWall=00:10:00
  m add qos low Priority=0
  m add account proj1 cluster="$CLUSTER" Description=proj1 Organization=lab
  m add account proj2 cluster="$CLUSTER" Description=proj2 Organization=lab
  m add user lab_alice cluster="$CLUSTER" account=proj1 DefaultAccount=proj1
  m add user lab_alice cluster="$CLUSTER" account=proj2
  m add user lab_bob cluster="$CLUSTER" account=proj2 DefaultAccount=proj2
  m add user lab_gw cluster="$CLUSTER" account=proj1 DefaultAccount=proj1
  m modify user lab_alice set qos+=normal,debug,low
  m modify user lab_bob set qos+=normal
  m modify user lab_gw set qos+=normal,debug,low
  m modify user lab_gw set adminlevel=Operator
  touch "$KNOWN"
fi

# ---------------------------------------------------------------- slurmctld
if alive "$C/run/ctld.pid"; then say slurmctld "running ($(cat "$C/run/ctld.pid"))"
  [ $CHANGED = 1 ] && say slurmctld "slurm.conf changed: run down.sh + up.sh (ports/nodes) or scontrol reconfigure"
else
  setsid slurmctld -D -f "$C/slurm.conf" >"$C/log/slurmctld.out" 2>&1 </dev/null &
  echo $! > "$C/run/ctld.pid"
  wait_for slurmctld 60 scontrol ping
  say slurmctld "started ($(cat "$C/run/ctld.pid"))"
fi

# ---------------------------------------------------------------- slurmd x NODES
for i in $(seq 1 "$NODES"); do
  n=$CLUSTER-n$i p=$C/run/node$i.pid
  if alive "$p"; then say "slurmd $n" "running ($(cat "$p"))"; continue; fi
  mkdir -p "$C/spool/$n"
  setsid slurmd -D -N "$n" -f "$C/slurm.conf" >"$C/log/slurmd.$n.out" 2>&1 </dev/null &
  echo $! > "$p"; say "slurmd $n" "started ($!)"
done
wait_for "nodes idle" 60 bash -c '[ "$(sinfo -h -N -p normal -t idle,mix,alloc -o %N | sort -u | wc -l)" = '"$NODES"' ]'

# ---------------------------------------------------------------- slurmrestd (never as root/SlurmUser)
if [ $REST = 1 ]; then
  if alive "$C/run/rest.pid"; then say slurmrestd "running ($(cat "$C/run/rest.pid"))"; else
    SLURM_JWT=daemon SLURMRESTD_SECURITY=disable_user_check setsid setpriv --reuid=nobody --regid=nogroup --clear-groups \
      slurmrestd -f "$C/slurm.conf" -a rest_auth/jwt -s v0.0.36,v0.0.37,v0.0.38,dbv0.0.36,dbv0.0.37,dbv0.0.38 \
      127.0.0.1:$REST_PORT >"$C/log/slurmrestd.log" 2>&1 </dev/null &
    echo $! > "$C/run/rest.pid"
    wait_for slurmrestd 20 bash -c "exec 3<>/dev/tcp/127.0.0.1/$REST_PORT"
    say slurmrestd "started ($(cat "$C/run/rest.pid")) on 127.0.0.1:$REST_PORT"
  fi
fi

# ---------------------------------------------------------------- sshd: this centre's "login node"
if [ $SSH = 1 ]; then
  mkdir -p /run/sshd "$S/ssh/authorized_keys"; chmod 755 "$S/ssh" "$S/ssh/authorized_keys"
  [ -s "$C/ssh/host_ed25519" ] || ssh-keygen -q -t ed25519 -N '' -f "$C/ssh/host_ed25519"
  [ -s "$S/ssh/id_ed25519" ] || ssh-keygen -q -t ed25519 -N '' -C lab -f "$S/ssh/id_ed25519"
  for u in $LAB_USERS; do cp "$S/ssh/id_ed25519.pub" "$S/ssh/authorized_keys/$u"; chmod 644 "$S/ssh/authorized_keys/$u"; done
  cat > "$C/ssh/sshd_config" <<CONF
ListenAddress 127.0.0.1:$SSH_PORT
HostKey $C/ssh/host_ed25519
PidFile none
AuthorizedKeysFile $S/ssh/authorized_keys/%u
StrictModes no
UsePAM no
PasswordAuthentication no
AllowUsers $LAB_USERS
SetEnv SLURM_CONF=$C/slurm.conf
MaxSessions 10
MaxStartups 100
Subsystem sftp internal-sftp
CONF
  if alive "$C/run/sshd.pid"; then say sshd "running ($(cat "$C/run/sshd.pid"))"; else
    setsid /usr/sbin/sshd -D -f "$C/ssh/sshd_config" -E "$C/log/sshd.log" </dev/null >/dev/null 2>&1 &
    echo $! > "$C/run/sshd.pid"
    wait_for sshd 10 bash -c "exec 3<>/dev/tcp/127.0.0.1/$SSH_PORT"
    say sshd "started ($(cat "$C/run/sshd.pid")) on 127.0.0.1:$SSH_PORT, key $S/ssh/id_ed25519"
  fi
fi
echo "ready: . $C/env.sh"
