#!/usr/bin/env bash
# Install the real things that the tests run against, on Debian as root. Nothing is started.
set -euo pipefail
PKGS="slurm-wlm slurmdbd slurmrestd slurm-client munge mariadb-server openssh-server slurm-wlm-jwt-plugin
      slurm-wlm-mysql-plugin slurm-wlm-torque postgresql chromium wrk"
missing=""
for p in $PKGS; do dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"; done
[ -z "$missing" ] && exit 0
echo "installing:$missing"
# Maintainer scripts must not start the stock daemons (ports 22, 3306, 5432, /etc/slurm).
policy=/usr/sbin/policy-rc.d
[ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' > $policy; chmod +x $policy; trap 'rm -f $policy' EXIT; }
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
{ apt-get update -q && apt-get install -q -y --no-install-recommends $missing; } >"$log" 2>&1 || { tail -20 "$log"; exit 1; }
