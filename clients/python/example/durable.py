"""Make a task that outlives this program, its connection and the kernel, and print its text as it comes.

python durable.py smollm2 "Name the capital of France." [REQUEST_ID]

Run again with the same REQUEST_ID it is the same task, told from its beginning. Ctrl-C cancels it.
"""

import sys

from inferd_client import Client, InferdError
from inferd_client.errors import from_status


def main(model: str, prompt: str, request_id: str = "") -> None:
    """Do it."""
    with Client() as client:  # of $INFERD_ADDRESS, or of the kernel of this user or host
        said = [{"role": "user", "content": prompt}]
        task = client.create_task(model, said, max_tokens=64, temperature=0, request_id=request_id)
        print("task", task.task_id, file=sys.stderr)
        try:
            for event in client.watch(task.task_id):
                print(event.output.text, end="", flush=True)
                if event.finished.HasField("error"):
                    raise from_status(event.finished.error)
                if event.HasField("finished"):
                    print(f"\n{event.finished.usage.output_tokens} tokens", file=sys.stderr)
        except KeyboardInterrupt:
            client.cancel_task(task.task_id)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except InferdError as error:
        sys.exit(f"{error.reason}: {error}")
