#!/usr/bin/env bash
# The life of the package, inside the root that run.sh made.
set -euo pipefail
cd "$TOLLGATE_PACKAGE_INSIDE"
say() { printf '== %s\n' "$*"; }
fail() { printf 'package: %s\n' "$*" >&2; exit 1; }
eventually() { # eventually WHAT COMMAND...
  local what=$1 tries=0; shift
  until "$@" >/dev/null 2>&1; do
    tries=$((tries + 1)); [ "$tries" -lt 300 ] || fail "not in time: $what"
    sleep 0.1
  done
}
is() { # is PATH OWNER:GROUP MODE
  [ "$(stat -c '%U:%G %a' "$1")" = "$2 $3" ] || fail "$1 is $(stat -c '%U:%G %a' "$1"), not $2 $3"
}
serve() { # serve [MORE]    as the unit does: as its user, with the environment that root alone reads
  local line; line=$(sed -n 's/^ExecStart=//p' /usr/lib/systemd/system/tollgate.service)
  (set -a; . /etc/tollgate/environment; set +a
   exec setpriv --reuid tollgate --regid tollgate --clear-groups $line "$@" >>"$log" 2>&1) &
}
log=$PWD/log

say install
dpkg -i 0.1.0-1.deb >/dev/null
is /etc/tollgate root:tollgate 750
is /etc/tollgate/tollgate.yaml root:tollgate 640
is /etc/tollgate/prices.yaml root:tollgate 640
is /etc/tollgate/environment root:root 600
is /var/lib/tollgate tollgate:tollgate 700
[ -L /etc/systemd/system/multi-user.target.wants/tollgate.service ] || fail "the service is not enabled"

say configure
tollgate simulate --listen 127.0.0.1:18000 --pace-ms 200 >/dev/null &
eventually "the simulated provider serves" grep -q :4650 /proc/net/tcp
sed -i 's/^OPENAI_API_KEY=.*/OPENAI_API_KEY=sk-package/' /etc/tollgate/environment
sed -i 's#https://api.openai.com/v1#http://127.0.0.1:18000/v1#' /etc/tollgate/tollgate.yaml
. /etc/tollgate/environment
export TOLLGATE_ADMIN_TOKEN OPENAI_API_KEY
tollgate check --config /etc/tollgate/tollgate.yaml

say serve
serve
first=$!
customer() { tollgate --json customer list; }
eventually "the gateway serves" customer
customer=$(tollgate --json customer create Ada | sed 's/.*"id":"\([^"]*\)".*/\1/')
tollgate credit deposit --customer "$customer" --amount 25.00 --reference first >/dev/null
key=$(tollgate --json key create --customer "$customer" | sed 's/.*"key":"\([^"]*\)".*/\1/')
chat() { # chat STREAM    an answer of 16 tokens, 200 ms each if it is a stream
  python3 - "$key" "$1" <<'PY'
import json, sys, urllib.request
body = {"model": "gpt-4o-mini", "stream": sys.argv[2] == "true", "messages": [{"role": "user", "content": "hello"}]}
request = urllib.request.Request("http://127.0.0.1:8080/v1/chat/completions", json.dumps(body).encode(),
    {"authorization": "Bearer " + sys.argv[1], "content-type": "application/json"})
answer = urllib.request.urlopen(request, timeout=60).read().decode()
assert "tok15" in answer, answer
PY
}
chat false

say "upgrade, while a stream is under way"
chat true &
stream=$!
in_flight() { exec 3<>/dev/tcp/127.0.0.1/9190 && printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3 && grep -q '^tollgate_in_flight 1' <&3; }
eventually "the stream is under way" bash -c "$(declare -f in_flight); in_flight"
dpkg -i 0.1.0-2.deb >/dev/null
[ -d "/proc/$first" ] || fail "the upgrade stopped the service"
grep -q 127.0.0.1:18000 /etc/tollgate/tollgate.yaml || fail "the upgrade changed the configuration"
grep -q sk-package /etc/tollgate/environment || fail "the upgrade changed the environment"
# What the package asks systemd to send.
kill -QUIT "$first"
eventually "the new program serves" grep -q '"taken_over":true' "$log"
chat false
wait "$stream" || fail "a stream was cut by the upgrade"
wait "$first" || fail "the old program did not end well"
main=$(sed -n 's/.*"taken_over":true,"process":\([0-9]*\).*/\1/p' "$log")
[ "$(readlink "/proc/$main/exe")" = /usr/bin/tollgate ] || fail "not the program that is installed: $(readlink "/proc/$main/exe")"
verified=$(tollgate --json ledger verify)
case $verified in *'"captures":3'*'"open_holds":0'*) ;; *) fail "the books say $verified" ;; esac

say remove
kill -TERM "$main"
eventually "the gateway has ended" test ! -e "/proc/$main/exe"
dpkg -r tollgate >/dev/null
[ ! -e /usr/bin/tollgate ] || fail "the program is still there"
[ -d /var/lib/tollgate/journal ] || fail "the store is gone"
[ -e /etc/tollgate/tollgate.yaml ] || fail "the configuration is gone"

say "install again: the store is as it was"
dpkg -i 0.1.0-2.deb >/dev/null
tollgate --json ledger verify --store /var/lib/tollgate | grep -q '"captures":3' || fail "the books are others"

say purge
dpkg -P tollgate >purged
grep -q "the store /var/lib/tollgate" purged || fail "nobody was told of the store"
[ ! -e /etc/tollgate ] || fail "left in /etc/tollgate: $(ls -A /etc/tollgate)"
left=$(find /etc /usr /lib -xdev -path '*tollgate*' 2>/dev/null || true)
[ -z "$left" ] || fail "left behind: $left"
[ -d /var/lib/tollgate/journal ] || fail "the store is gone"
rm -r /var/lib/tollgate
say "the package lives and dies as it should"
