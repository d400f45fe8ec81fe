#!/usr/bin/env python3
"""The rules of src/README.md and of the style guide that a program can check. tools/tidy.py [FILE...]

Prints one line a finding, `path:line: what, and what to do instead`, and exits 1 if there is any.
There is no list of old sins. A line that has to break a rule says so on itself or the line above:
`tidy: <rule> because <reason>`, with one of the rules that EXCUSABLE names.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAYERS = ("base", "reactor", "sched", "io", "proto", "api", "python")

FILE_LINES = 800
FUNCTION_LINES = 70
COLUMNS = {".c": 100, ".h": 100, ".py": 120, "": 120}
EXCUSABLE = ("long", "sleep", "global", "call")

# Where conditional compilation may be; everywhere else meson chooses whole files.
CONDITIONAL = {"src/base/platform.h", "src/python/compat.h"}

# Calls that a folder must not make, and what to do instead.
BANNED = (
    (r"src/", r"\b(sprintf|vsprintf|strcpy|strcat|gets|strtok|atoi|atol)\(", "use the bounded one"),
    (r"src/", r"\b(sleep|usleep|nanosleep)\(", "wait on a deadline of the worker"),
    (r"src/(?!reactor/)", r"\b(epoll_(create1?|ctl|p?wait2?)|io_uring_\w+|kevent|kqueue)\(",
     "only src/reactor waits: submit an op"),
    (r"src/(base|proto)/", r"\b(socket|accept4?|recv(msg)?|send(msg)?|readv?|writev?|close)\(",
     "this layer knows no file descriptors"),
    (r"src/proto/", r"\b(malloc|calloc|realloc|free)\(", "use base/alloc.h"),
    (r"src/(?!python/)", r"\b(printf|puts|perror)\(", "the library does not print: return an error"),
)


class Tidy:
    def __init__(self):
        self.findings = []

    def report(self, path, number, text):
        self.findings.append(f"{path}:{number}: {text}")


def project_files():
    """What git would have, without what is being deleted."""
    done = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"],
                          cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:  # a source archive has no git
        names = [str(p.relative_to(ROOT)) for folder in ("src", "python", "tests", "tools", "bench")
                 for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    else:
        names = done.stdout.splitlines()
    return sorted(n for n in names if (ROOT / n).is_file())


def strip_c(text):
    """The code without comments and without the contents of strings, line structure kept."""
    def blank(match):
        found = match.group(0)
        if found.startswith(('"', "'")):
            return found[0] + " " * (len(found) - 2) + found[-1] if len(found) >= 2 else found
        return re.sub(r"[^\n]", " ", found)
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text,
                  flags=re.DOTALL)


def excused(lines, index, rule):
    """Does the line, or the comment above it, carry `tidy: <rule> because ...`?"""
    pattern = re.compile(rf"tidy: {rule} because \S")
    return any(pattern.search(line) for line in lines[max(0, index - 3):index + 1])


def check_text(tidy, path, lines):
    """Rules for every text file."""
    limit = COLUMNS.get(pathlib.PurePath(path).suffix)
    for number, line in enumerate(lines, 1):
        if line != line.rstrip():
            tidy.report(path, number, "blanks at the end of the line")
        if "\t" in line and not path.endswith("Makefile"):
            tidy.report(path, number, "a tab: indent with spaces")
        if limit and len(line) > limit and "http" not in line:
            tidy.report(path, number, f"{len(line)} columns: {limit} is the limit")
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line) and path != "tools/tidy.py":
            tidy.report(path, number, "an unfinished mark: do it, or make it an issue")
        if re.search(r"(?<![\w.~/$}])/(work|root|home/\w+)/", line) and path != "tools/tidy.py":
            tidy.report(path, number, "the path of one machine")
    if len(lines) > FILE_LINES and path.endswith((".c", ".h", ".py")):
        tidy.report(path, len(lines), f"{len(lines)} lines: split the file by noun ({FILE_LINES} is the limit)")


def check_includes(tidy, path, code, lines):
    layer = pathlib.PurePath(path).parts[1]
    rank = LAYERS.index(layer)
    for index, line in enumerate(lines):
        match = re.match(r'\s*#\s*include "([^"]+)"', line)
        if not match:
            continue
        folder = match.group(1).split("/")[0]
        if folder not in LAYERS or "/" not in match.group(1):
            tidy.report(path, index + 1, f'include "{match.group(1)}" by its layer: "{layer}/..."')
        elif LAYERS.index(folder) > rank:
            tidy.report(path, index + 1, f"{layer}/ may not know {folder}/: includes point down only")
    if layer != "python":
        for index, line in enumerate(code):
            if re.search(r"\bPy(_|[A-Z])\w*|Python\.h", line):
                tidy.report(path, index + 1, "Python is known only in src/python/")


def check_conditionals(tidy, path, code):
    """Only the include guard may be conditional."""
    if path in CONDITIONAL:
        return
    guarded = False
    for index, line in enumerate(code):
        match = re.match(r"\s*#\s*(if|ifdef|ifndef|elif)\b", line)
        if not match:
            continue
        following = code[index + 1] if index + 1 < len(code) else ""
        if match.group(1) == "ifndef" and not guarded and re.match(r"#define PYL_\w+_H\b", following):
            guarded = True
            continue
        tidy.report(path, index + 1, "#if: put the difference into base/platform.h (python/compat.h "
                    "for versions of Python) or into a file that meson chooses")


def check_functions(tidy, path, code, lines):
    """Length, by the layout that clang-format enforces: the body's braces stand in column 0."""
    start = None
    for index, line in enumerate(code):
        if line.rstrip() == "{":
            start = index
        elif line.startswith("}") and start is not None:
            length = index - start - 1
            if length > FUNCTION_LINES and not any("tidy: long because" in text
                                                   for text in lines[max(0, start - 12):index]):
                name = next((re.match(r"(\w+)\(", code[i]).group(1) for i in range(start, -1, -1)
                             if re.match(r"\w+\(", code[i])), "?")
                tidy.report(path, start + 1, f"{name} has {length} lines: {FUNCTION_LINES} is the limit")
            start = None


def check_globals(tidy, path, code, lines):
    """Everything hangs off a loop, a worker or the module state."""
    tables = r"Py(MethodDef|Type_Slot|Type_Spec|ModuleDef|ModuleDef_Slot|MemberDef|GetSetDef)\b"
    for index, line in enumerate(code):
        if not re.match(r"static\s+(?!inline\b)", line) or re.search(r"\bconst\b|" + tables, line):
            continue
        if re.search(r"[=;]\s*$|= \{", line) and "(" not in line.split("=")[0]:
            if not excused(lines, index, "global"):
                tidy.report(path, index + 1, "global state: hang it off the worker or the module state")


def check_calls(tidy, path, code, lines):
    for where, pattern, instead in BANNED:
        if not re.match(where, path):
            continue
        for index, line in enumerate(code):
            match = re.search(r"(?<![\w.>])" + pattern.removeprefix(r"\b"), line)
            if match and not excused(lines, index, "call"):
                tidy.report(path, index + 1, f"{match.group(0)[:-1]}: {instead}")


def check_prototypes(tidy, path, code, lines):
    """A prototype is a contract: a comment stands above it, or above the group it is in."""
    index = 0
    while index < len(code):
        line = code[index]
        if not re.match(r"(PYL_\w+ )?(const )?(struct |enum |unsigned )?\w+[ *]+[\w ]*pyl_\w+\(", line) \
                or line.startswith(("typedef", "static", "#", "return")):
            index += 1
            continue
        above = index - 1
        while above >= 0 and lines[above].strip() and not lines[above].rstrip().endswith("*/") \
                and not lines[above].startswith(("}", "#")):
            above -= 1
        if above < 0 or not lines[above].rstrip().endswith("*/"):
            name = re.search(r"pyl_\w+", line).group(0)
            tidy.report(path, index + 1, f"{name} has no comment that states its contract")
        while index < len(code) and not code[index].rstrip().endswith((";", "{")):
            index += 1
        index += 1


def check_head(tidy, path, lines):
    name = pathlib.PurePath(path).name
    head = "\n".join(lines[:2])
    if not re.match(rf"/\*\n \* {re.escape(name)} - \S", head):
        tidy.report(path, 1, f"begin with a comment: `{name} - what it is`")


def check_tests(tidy, path, text, files):
    """Each C file below Python has a suite of its own, or says in its head which one covers it."""
    layer, name = pathlib.PurePath(path).parts[1], pathlib.PurePath(path).stem
    suite = f"tests/unit/{layer}/test_{name}.c"
    named = re.search(r"Tested by ([\w/.]+\w)", text)
    if layer == "python":
        return
    if named:
        if not (ROOT / named.group(1)).exists():
            tidy.report(path, 1, f"tested by {named.group(1)}, which does not exist")
    elif suite not in files:
        tidy.report(path, 1, f"no {suite}; if another suite covers it: `Tested by PATH.` in the head")


def check_built(tidy, path):
    """A file that no meson.build names is dead."""
    pure = pathlib.PurePath(path)
    for folder in (pure.parent, *pure.parent.parents):
        meson = ROOT / folder / "meson.build"
        if meson.exists():
            text = meson.read_text()
            stem = pure.stem.removeprefix("test_").removeprefix("stress_").removeprefix("fuzz_")
            if pure.name in text or re.search(rf"'{re.escape(stem)}'", text):
                return
        if str(folder) == ".":
            break
    tidy.report(path, 1, "no meson.build names this file")


def check_sleeps(tidy, path, lines):
    for index, line in enumerate(lines):
        if re.search(r"(?<!\w)(time\.sleep|usleep|nanosleep|sleep)\(", line) and "asyncio" not in line:
            if not excused(lines, index, "sleep"):
                tidy.report(path, index + 1, "a sleep in a test: synchronise on the event")


def check_python(tidy, path, text):
    import ast
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        tidy.report(path, error.lineno or 1, f"does not parse: {error.msg}")
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno
            if length > FUNCTION_LINES:
                tidy.report(path, node.lineno, f"{node.name} has {length} lines: {FUNCTION_LINES} is the limit")


def check_file(tidy, path, files):
    try:
        text = (ROOT / path).read_text()
    except UnicodeDecodeError:
        return  # a corpus or a certificate in binary
    lines = text.splitlines()
    if "/corpus/" in path or path.endswith((".pem", ".der")):
        return
    check_text(tidy, path, lines)
    if text and not text.endswith("\n"):
        tidy.report(path, len(lines), "no newline at the end of the file")
    if path.endswith((".c", ".h")):
        code = strip_c(text).splitlines()
        check_functions(tidy, path, code, lines)
        check_head(tidy, path, lines)
        if path.endswith(".c"):
            check_built(tidy, path)
        if path.startswith("src/"):
            check_includes(tidy, path, code, lines)
            check_conditionals(tidy, path, code)
            check_globals(tidy, path, code, lines)
            check_calls(tidy, path, code, lines)
            if path.endswith(".h"):
                check_prototypes(tidy, path, code, lines)
            else:
                check_tests(tidy, path, text, files)
    elif path.endswith(".py"):
        check_python(tidy, path, text)
    if path.startswith("tests/") and path.endswith((".c", ".py")):
        check_sleeps(tidy, path, lines)


def main():
    files = project_files()
    chosen = [str(pathlib.Path(a).resolve().relative_to(ROOT)) for a in sys.argv[1:]] or files
    tidy = Tidy()
    for path in chosen:
        check_file(tidy, path, set(files))
    for finding in tidy.findings:
        print(finding)
    print(f"tidy: {len(chosen)} files, {len(tidy.findings)} findings")
    return 1 if tidy.findings else 0


if __name__ == "__main__":
    sys.exit(main())
