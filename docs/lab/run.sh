#!/usr/bin/env bash
# Two pods, each with its ztunnel, on this machine: a request from one to the other through HBONE,
# and one in plaintext that policy refuses. Needs root, iproute2, iptables, curl and python3.
#
#   cargo build && sudo docs/lab/run.sh [path to the binary]
#
# With KEEP=1 the pods stay until Enter is pressed.
set -euo pipefail
cairn=$(realpath "${1:-target/debug/cairn}")
mesh=$(realpath "$(dirname "$0")/mesh.yaml")
work=$(mktemp -d)
pids=()

cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  for name in client server; do
    ip link del "lab-$name" 2>/dev/null || true
    ip netns del "lab-$name" 2>/dev/null || true
    rm -rf "/etc/netns/lab-$name"
  done
  ip link del lab-br 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

inside() { local pod=$1; shift; ip netns exec "lab-$pod" "$@"; }

# A namespace with an address, on a bridge that this machine is on as well.
pod() {
  local name=$1 address=$2
  ip netns add "lab-$name"
  ip link add "lab-$name" type veth peer name eth0 netns "lab-$name"
  ip link set "lab-$name" master lab-br up
  inside "$name" ip link set lo up
  inside "$name" ip link set eth0 up
  inside "$name" ip address add "$address/24" dev eth0
  inside "$name" ip route add default via 10.9.0.254
  # Nobody is there: questions are redirected. `ip netns exec` puts the file in place.
  mkdir -p "/etc/netns/lab-$name"
  echo "nameserver 10.9.0.254" >"/etc/netns/lab-$name/resolv.conf"
}

# What Istio's CNI agent sets up in a pod. 0x539 (1337) is the mark of the ztunnel's own packets;
# 0x111 that of their connections, by which answers find their way back to it.
redirect() {
  inside "$1" iptables-restore <<'RULES'
*mangle
-A PREROUTING -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
-A OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
*nat
-A OUTPUT -d 169.254.7.127/32 -p tcp -j ACCEPT
-A OUTPUT ! -o lo -p udp -m udp --dport 53 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15053
-A OUTPUT ! -d 127.0.0.1/32 -p tcp -m tcp --dport 53 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15053
-A OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT
-A OUTPUT ! -d 127.0.0.1/32 -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
-A PREROUTING -s 169.254.7.127/32 -p tcp -j ACCEPT
-A PREROUTING ! -d 127.0.0.1/32 -p tcp -m tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006
COMMIT
RULES
  inside "$1" ip rule add fwmark 0x111/0xfff pref 32764 lookup 100
  inside "$1" ip route add local 0.0.0.0/0 dev lo table 100
}

# As in Istio's image: the environment says everything.
ztunnel() {
  local name=$1
  ip netns exec "lab-$name" env PROXY_MODE=dedicated PROXY_WORKLOAD_INFO="demo/$name/$name-sa" PACKET_MARK=1337 \
    LOCAL_XDS_PATH="$mesh" CAIRN_IDENTITY_DIR="$work/certs/demo/$name-sa" \
    "$cairn" proxy ztunnel >"$work/$name.access" 2>"$work/$name.log" &
  pids+=($!)
}

# Waits until a command succeeds; shows the logs when it never does.
until_ready() {
  for _ in {1..100}; do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  cat "$work"/*.log >&2
  echo "gave up: $*" >&2
  exit 1
}

ip link add lab-br type bridge
ip address add 10.9.0.254/24 dev lab-br
ip link set lab-br up
for pod in client:10.9.0.1 server:10.9.0.2; do
  pod "${pod%%:*}" "${pod##*:}"
  redirect "${pod%%:*}"
done

"$cairn" certs --out "$work/certs" demo/client-sa demo/server-sa >/dev/null
mkdir "$work/www"
echo "hello from the server" >"$work/www/index.html"
ip netns exec lab-server python3 -m http.server 8080 --directory "$work/www" >"$work/app.log" 2>&1 &
pids+=($!)
ztunnel client
ztunnel server
for name in client server; do
  until_ready inside "$name" curl -fs http://127.0.0.1:15021/healthz/ready
done
# Loopback is not redirected: this is the application itself.
until_ready inside server curl -fs http://127.0.0.1:8080/

printf '\n== the client asks the service; its ztunnel answers the question for the name\n'
inside client curl -sS --max-time 10 http://server.demo/
printf '\n== this machine, which has no identity, asks the server: policy says no\n'
curl -sS --max-time 10 http://10.9.0.2:8080/ 2>&1 || true
# A line is written when its connection has ended.
until_ready grep -q "connection complete" "$work/client.access"
until_ready grep -q "policy rejection" "$work/server.access"
for name in client server; do
  printf '\n== access log of the %s\n' "$name"
  cat "$work/$name.access"
done

if [[ -n ${KEEP:-} ]]; then
  printf '\nThe pods stay. Try: ip netns exec lab-client curl -s http://127.0.0.1:15000/config_dump\nEnter ends it. '
  read -r || true
fi
