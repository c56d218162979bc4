#!/usr/bin/env bash
# Start OpenStack Swift with its s3api on loopback, run a command with STORE_URL and the AWS variables set, and stop it.
#   tests/proof/stores/swift.sh .venv/bin/python -m pytest tests/fast/test_store.py -m endpoint
# Needs memcached and, unless SWIFT_VENV names an environment that has it, swift from PyPI: it gets a venv of its own in
# the temporary folder. That folder needs extended attributes (ext4, xfs, tmpfs). SWIFT_REPLICAS copies, 3 by default, on
# as many folders; one process per server. Nothing is left behind.
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,6p' "$0"; exit 2; }

. "$(dirname "$0")/loopback.sh"

if [ -z "${SWIFT_VENV:-}" ]; then
    SWIFT_VENV=$folder/venv
    python3 -m venv "$SWIFT_VENV"
    "$SWIFT_VENV/bin/pip" install --quiet --disable-pip-version-check swift==2.38.3
fi
replicas=${SWIFT_REPLICAS:-3} cache=$(free_port) port=$(free_port)
mkdir "$folder/devices"
cat >"$folder/swift.conf" <<CONF
[swift-hash]
swift_hash_path_suffix = store
[storage-policy:0]
name = only
default = yes
CONF
common="[DEFAULT]
swift_dir = $folder
devices = $folder/devices
mount_check = false
bind_ip = 127.0.0.1
workers = 0
user = $(id -un)
log_level = ERROR
fallocate_reserve = 0"
for server in account container object; do
    server_port=$(free_port)
    printf '%s\nbind_port = %s\n[pipeline:main]\npipeline = %s-server\n[app:%s-server]\nuse = egg:swift#%s\n' \
        "$common" "$server_port" $server $server $server >"$folder/$server.conf"
    "$SWIFT_VENV/bin/swift-ring-builder" "$folder/$server.builder" create 4 "$replicas" 0 >/dev/null
    for device in $(seq "$replicas"); do
        mkdir -p "$folder/devices/d$device"
        "$SWIFT_VENV/bin/swift-ring-builder" "$folder/$server.builder" \
            add "r1z$device-127.0.0.1:$server_port/d$device" 1 >/dev/null
    done
    "$SWIFT_VENV/bin/swift-ring-builder" "$folder/$server.builder" rebalance >/dev/null
    "$SWIFT_VENV/bin/swift-$server-server" "$folder/$server.conf" >"$folder/$server.out" 2>&1 & pids+=($!)
done
cat >"$folder/proxy.conf" <<CONF
$common
bind_port = $port
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats s3api tempauth bulk slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:$cache
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = secret .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
CONF
memcached -u "$(id -un)" -l 127.0.0.1 -p "$cache" -m 32 >"$folder/memcached.out" 2>&1 & pids+=($!)
"$SWIFT_VENV/bin/swift-proxy-server" "$folder/proxy.conf" >"$folder/proxy.out" 2>&1 & pids+=($!)
wait_for curl -sf "http://127.0.0.1:$port/healthcheck"
run_with "$port" test:tester secret "$@"
