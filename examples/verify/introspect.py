#!/usr/bin/python3
"""Asks the verifier whether the bearer token on standard input is accepted now: introspect.py <token

VERIFIER is where it is, such as https://verifier.example:8443; VERIFIER_CA who vouches for it. Needs Authlib and Requests.
"""

import json
import os
import sys

from authlib.integrations.requests_client import OAuth2Session

MY_TOKEN = os.environ.get("KUBERNETES_TOKEN", "/var/run/secrets/kubernetes.io/serviceaccount/token")


def introspect(token):
    # Kubernetes renews the file; read it each time.
    with open(MY_TOKEN, encoding="ascii") as file:
        me = OAuth2Session(token={"access_token": file.read().strip(), "token_type": "Bearer"})
    answer = me.introspect_token(
        os.environ["VERIFIER"] + "/introspect/orders",
        token=token,
        auth=me.token_auth,
        timeout=2,
        verify=os.environ["VERIFIER_CA"],
    )
    # Whatever is not 200, 503 among them, says nothing of the token: refuse, and let the caller ask again.
    answer.raise_for_status()
    return answer.json()


print(json.dumps(introspect(sys.stdin.read().strip())))
