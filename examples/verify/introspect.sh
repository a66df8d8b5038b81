#!/bin/sh
# Asks the verifier whether the bearer token on standard input is accepted now: introspect.sh <token
# VERIFIER is where it is, such as https://verifier.example:8443; VERIFIER_CA who vouches for it.
set -eu
caller=$(cat "${KUBERNETES_TOKEN:-/var/run/secrets/kubernetes.io/serviceaccount/token}")
token=$(cat)
# Not by arguments, which every process of the machine can read.
curl --silent --show-error --fail --max-time 2 --cacert "$VERIFIER_CA" --config - "$VERIFIER/introspect/orders" <<END
header = "Authorization: Bearer $caller"
data-urlencode = "token=$token"
END
