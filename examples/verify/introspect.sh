#!/bin/sh
# Asks the verifier whether the bearer token on standard input is accepted now: introspect.sh <token
# VERIFIER is where it is, such as https://verifier.example:8443; VERIFIER_CA who vouches for it.
set -eu
caller=$(cat "${KUBERNETES_TOKEN:-/var/run/secrets/kubernetes.io/serviceaccount/token}")
token=$(cat)
# Neither by an argument, which every process of the machine can read, nor what a stranger sent by curl's configuration.
printf %s "$token" | curl --silent --show-error --fail --max-time 2 --cacert "$VERIFIER_CA" --config /dev/fd/3 \
  --data-urlencode token@- "$VERIFIER/introspect/orders" 3<<END
header = "Authorization: Bearer $caller"
END
