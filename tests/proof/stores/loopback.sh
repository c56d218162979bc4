# Sourced by the scripts beside it: a temporary folder, processes that are stopped at the end, free ports.
folder=$(mktemp -d -t store-XXXXXX)
pids=()
stop() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$folder"
}
trap stop EXIT
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
wait_for() {
    for _ in $(seq 60); do
        "$@" >/dev/null 2>&1 && return
        sleep 1
    done
    echo "not ready after a minute: $*" >&2
    tail -n 5 "$folder"/*.out >&2
    exit 1
}
# Point the AWS chain at a port, with an access key and a secret, make the bucket of STORE_URL, and run a command.
run_with() {
    export AWS_ENDPOINT_URL_S3=http://127.0.0.1:$1 AWS_ACCESS_KEY_ID=$2 AWS_SECRET_ACCESS_KEY=$3
    export AWS_DEFAULT_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true STORE_URL=s3://suite
    shift 3
    "${PYTHON:-.venv/bin/python}" -c 'import boto3; boto3.client("s3").create_bucket(Bucket="suite")'
    "$@"
}
