"""Checks one model with spin: all its states are right, and with each of its bugs switched on one is wrong.

    check.py MODEL.pml [NAME=VALUE...]

spin knows no weak memory: the models show that the protocols are right when every access is sequentially
consistent; why weaker orders are enough in places is in src/sched/README.md, and ThreadSanitizer sees that.
Exit status 0: passed, 1: failed, 77: no spin on this machine.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile


def verify(model, definitions):
    """The number of errors and the rest of what the verifier prints."""
    flags = [f"-D{definition}" for definition in definitions]
    with tempfile.TemporaryDirectory(prefix="pyloop-model-") as where:
        subprocess.run(["spin", *flags, "-a", model], cwd=where, check=True, capture_output=True)
        subprocess.run(["cc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-DVECTORSZ=4096", "-o", "pan", "pan.c"],
                       cwd=where, check=True)
        done = subprocess.run(["./pan", "-m1000000", "-w22"], cwd=where, check=False, capture_output=True,
                              text=True)
    output = done.stdout + done.stderr
    found = re.search(r"errors: (\d+)", output)
    if found is None or "search not completed" in output and found.group(1) == "0" or "too small" in output:
        print(output)
        sys.exit(1)
    return int(found.group(1)), output


def main():
    if shutil.which("spin") is None:
        print("SKIPPED: no spin on this machine (tools/setup --for test installs it)")
        sys.exit(77)
    model = pathlib.Path(sys.argv[1]).resolve()
    definitions = sys.argv[2:]
    errors, output = verify(model, definitions)
    states = re.search(r"(\S+) states, stored", output).group(1)
    print(f"{model.name} {' '.join(definitions)}: {states} states, {errors} errors")
    is_right = errors == 0
    if not is_right:
        print(output)
    for bug in re.findall(r"^ \* (BUG_\w+):", model.read_text(), re.MULTILINE):
        errors, _ = verify(model, [*definitions, bug])
        print(f"{model.name} {bug}: {'found' if errors else 'NOT FOUND'}")
        is_right = is_right and errors > 0
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
