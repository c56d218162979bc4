#!/usr/bin/env bash
# Start Ceph's object gateway on loopback, run a command with STORE_URL and the AWS variables set, and stop it.
#   tests/proof/stores/ceph.sh .venv/bin/python -m pytest tests/fast/test_store.py -m endpoint
# Needs, on Debian 12, as root: apt-get install --no-install-recommends ceph-mon ceph-osd radosgw ceph-common
# One monitor, one storage daemon that keeps everything in memory, one gateway. Nothing is left behind.
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,5p' "$0"; exit 2; }

. "$(dirname "$0")/loopback.sh"
export CEPH_CONF=$folder/ceph.conf

v2=$(free_port) v1=$(free_port) port=$(free_port) fsid=$(cat /proc/sys/kernel/random/uuid)
cat >"$CEPH_CONF" <<CONF
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:$v2,v1:127.0.0.1:$v1]
public addr = 127.0.0.1
keyring = $folder/keyring
run dir = $folder
admin socket = $folder/\$name.asok
log file = $folder/\$name.log
crash dir = $folder
mon data = $folder/mon
osd data = $folder/osd
auth allow insecure global id reclaim = false
osd objectstore = memstore
memstore device bytes = 4294967296
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
mon allow pool size one = true
mon cluster log file = $folder/cluster.log
mon data avail crit = 1
rgw frontends = beast endpoint=127.0.0.1:$port
rgw thread pool size = 64
rgw data = $folder
[osd]
keyring = $folder/osd/keyring
CONF
mkdir "$folder/mon" "$folder/osd"
ceph-authtool --create-keyring "$folder/keyring" --gen-key -n mon. --cap mon 'allow *' >/dev/null
ceph-authtool "$folder/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' >/dev/null
ceph-authtool --create-keyring "$folder/osd/keyring" --gen-key -n osd.0 >/dev/null
monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$v2,v1:127.0.0.1:$v1]" "$folder/monmap" >/dev/null
ceph-mon --mkfs -i a --monmap "$folder/monmap" --keyring "$folder/keyring"
ceph-mon -f -i a >"$folder/mon.out" 2>&1 & pids+=($!)
wait_for timeout 10 ceph status
osd=$(cat /proc/sys/kernel/random/uuid)
key=$(ceph-authtool "$folder/osd/keyring" -n osd.0 --print-key)
echo "{\"cephx_secret\": \"$key\"}" | ceph osd new "$osd" -i - >"$folder/osd.out" 2>&1
ceph-osd --mkfs -i 0 --osd-uuid "$osd" >>"$folder/osd.out" 2>&1
ceph-osd -f -i 0 >>"$folder/osd.out" 2>&1 & pids+=($!)
wait_for sh -c 'timeout 10 ceph osd stat | grep -q "1 up"'
radosgw -f -n client.admin >"$folder/rgw.out" 2>&1 & pids+=($!)
wait_for curl -sf "http://127.0.0.1:$port/"
radosgw-admin user create --uid tester --display-name tester --access-key access --secret-key secret >/dev/null 2>&1
run_with "$port" access secret "$@"
