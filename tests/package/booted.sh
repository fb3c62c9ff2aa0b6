#!/usr/bin/env bash
# The life of the package on a booted machine: called by boot.sh, within it.
set -euo pipefail
say() { printf '== %s\n' "$*"; }
fail() { printf 'booted: %s\n' "$*" >&2; journalctl -u tollgate --no-pager -n 20 >&2; exit 1; }
eventually() { # eventually WHAT COMMAND...
  local what=$1 tries=0; shift
  until "$@" >/dev/null 2>&1; do
    tries=$((tries + 1)); [ "$tries" -lt 600 ] || fail "not in time: $what"
    sleep 0.1
  done
}
main() { systemctl show tollgate --property MainPID --value; }
is_another() { local now; now=$(main); [ "$now" != 0 ] && [ "$now" != "$1" ] && systemctl is-active --quiet tollgate; }
upgrade() {
  local before; before=$(main)
  systemctl kill --kill-whom=main --signal=SIGQUIT tollgate
  eventually "another process is the main one" is_another "$before"
}
chat() { # chat [METADATA]    a streamed answer
  curl -sSfN http://127.0.0.1:8080/v1/chat/completions -H "authorization: Bearer $key" \
    -H "content-type: application/json" -d '{ "model": "gpt-4o-mini", "stream": true,
      "messages": [{ "role": "user", "content": "hello" }], "metadata": '"${1:-{\}}"' }'
}
long='{ "simulate_tokens": "30", "simulate_chunks": "30", "simulate_pace_ms": "150" }'
whole() { tail -c 20 "$1" | grep -q DONE || fail "$1 is not whole"; }

# The one interface of this machine.
python3 - <<'PY'
import fcntl, socket, struct
IFF_UP, IFF_RUNNING, SIOCSIFFLAGS = 0x1, 0x40, 0x8914
fcntl.ioctl(socket.socket(), SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP | IFF_RUNNING).ljust(40, b"\0"))
PY

say install
apt-get install -y -qq /root/tollgate.deb >/dev/null 2>&1 || fail "it is not installed"
setsid tollgate simulate --listen 127.0.0.1:18000 >/dev/null 2>&1 </dev/null &
sed -i 's/^OPENAI_API_KEY=.*/OPENAI_API_KEY=sk-package/' /etc/tollgate/environment
sed -i 's#https://api.openai.com/v1#http://127.0.0.1:18000/v1#' /etc/tollgate/tollgate.yaml

say start
systemctl start tollgate
set -a; . /etc/tollgate/environment; set +a
customer=$(tollgate --json customer create Ada | sed 's/.*"id":"\([^"]*\)".*/\1/')
tollgate credit deposit --customer "$customer" --amount 25.00 --reference first >/dev/null
key=$(tollgate --json key create --customer "$customer" | sed 's/.*"key":"\([^"]*\)".*/\1/')
chat >/root/answer; whole /root/answer

say reload
systemctl reload tollgate
journalctl -u tollgate --no-pager | grep -q '"message":"reloaded"' || fail "nothing was reloaded"

say "upgrade while idle"
for _ in 1 2 3; do upgrade; chat >/root/answer; whole /root/answer; done
grep -q 'PPid:.1$' "/proc/$(main)/status" || fail "systemd does not wait for the end of another's child"

say "upgrade under a stream"
chat "$long" >/root/answer & stream=$!
sleep 1
upgrade
chat >/root/other; whole /root/other
wait $stream; whole /root/answer

say "stop under a stream"
chat "$long" >/root/answer & stream=$!
sleep 1
systemctl stop tollgate
wait $stream; whole /root/answer
[ "$(systemctl show tollgate --property Result --value)" = success ] || fail "it did not end well"
tollgate ledger verify --store /var/lib/tollgate | head -1

say "a hang, and a kill"
systemctl start tollgate
for signal in STOP KILL; do
  before=$(main)
  kill -"$signal" "$before"
  eventually "it was started again" is_another "$before"
  chat >/root/answer; whole /root/answer
done

say remove
apt-get remove -y -qq tollgate >/dev/null 2>&1
[ -e /etc/tollgate/tollgate.yaml ] && [ -e /var/lib/tollgate/journal ] || fail "configuration and store stay"
tollgate --version >/dev/null 2>&1 && fail "the program is there"
echo ok
