"""health.py PORT HOST: whether the server does its work for those who call it HOST; exit code 0 if so, else 1.

It asks for something that needs the database, under the name that people use: MLflow's own /health is exempt from the
check of names and touches no database, so it says OK while every client is refused.
"""

import base64
import http.client
import os
import sys


def main(port: int, host: str) -> str | None:
    """What is wrong, or None."""
    headers = {"Host": f"{host}:{port}", "Content-Type": "application/json"}
    auth = "auth" in os.environ["SACCADE_PROFILES"].split(",")
    if auth:
        who = f"admin:{os.environ['MLFLOW_AUTH_ADMIN_PASSWORD']}"
        headers["Authorization"] = "Basic " + base64.b64encode(who.encode()).decode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/api/2.0/mlflow/experiments/search", '{"max_results": 1}', headers)
        answer = connection.getresponse()
        text = answer.read(300).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error}"
    # 401: the administrator has another password by now, which the server has looked up in its database.
    return None if answer.status == 200 or (auth and answer.status == 401) else f"{answer.status} {text}"


if __name__ == "__main__":
    wrong = main(int(sys.argv[1]), sys.argv[2])
    if wrong is not None:
        sys.exit(f"error: as {sys.argv[2]}: {wrong}")
