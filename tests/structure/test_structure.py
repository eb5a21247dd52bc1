"""The shape of the source tree: what may include what, headers that stand alone, words the README promises."""
import json
import os
import pathlib
import re
import shlex
import subprocess
import unittest
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAYERS = ["kernels", "comm", "model", "checkpoint", "worker", "launcher"]  # each includes itself and those before
CUDA_BRANCHES = {"kernels/device_open.c": 1, "comm/collectives.c": 1}  # the only places that know whether the build has CUDA
EMULATION = "tests/emulation"  # the GPU that the CUDA sources run on in tests; it stands before others in include paths
CODE = ["*.c", "*.h", "*.cu", "*.cuh", "*.cpp"]
BANNED = ["strcpy", "strcat", "sprintf", "vsprintf", "strtok", "atoi", "atof", "gets"]


def sources(patterns, folders=LAYERS):
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return sorted(path for folder in folders for pattern in patterns for path in (ROOT / folder).rglob(pattern))


def relative(path):
    return str(path.relative_to(ROOT))


class Structure(unittest.TestCase):
    def test_includes_point_one_way(self):
        for path in sources(CODE):
            own = LAYERS.index(relative(path).split("/")[0])
            for layer in re.findall(r'^#include "(\w+)/', path.read_text(), re.MULTILINE):
                self.assertIn(layer, LAYERS[: own + 1], f"{relative(path)} includes {layer}/")

    def test_every_source_includes_its_own_header_first(self):
        for path in sources("*.c", [*LAYERS, "tests"]):
            header = path.with_suffix(".h")
            if header.exists():
                first = re.search(r'^#include (\S+)', path.read_text(), re.MULTILINE)
                own = header.name if relative(path).startswith("tests/") else relative(header)
                self.assertEqual(first[1], f'"{own}"', relative(path))

    def test_every_header_compiles_alone(self):
        commands = json.loads(pathlib.Path(os.environ["COMPILE_COMMANDS"]).read_text())
        command = next(shlex.split(c["command"]) for c in commands if c["file"].endswith("comm/comm.c"))
        flags = command[: command.index("-o")]

        def compile_alone(header):
            return header, subprocess.run(
                [*flags, "-Wno-pragma-once-outside-header", "-Wno-unused-function", "-fsyntax-only", "-x", "c", header],
                cwd=ROOT, capture_output=True, text=True)

        with ThreadPoolExecutor(2) as pool:
            for header, done in pool.map(compile_alone, sources("*.h")):
                self.assertEqual(done.returncode, 0, f"{relative(header)} does not compile alone:\n{done.stderr}")

    def test_header_guards_are_the_path(self):
        for path in sources(["*.h", "*.cuh"], [*LAYERS, "tests"]):
            guard = re.sub(r"\W", "_", relative(path)).upper()
            if not relative(path).startswith(EMULATION):  # which has those of what it stands in for
                lines = f"#ifndef MOETRAIN_{guard}\n#define MOETRAIN_{guard}\n"
                self.assertTrue(lines in path.read_text(), f"{relative(path)} has not:\n{lines}")

    def test_file_names_are_unique(self):
        seen, twins = {}, []
        for path in sources(CODE, [*LAYERS, "tests"]):
            if path.name in seen:
                twins.append((seen[path.name], relative(path)))
            seen[path.name] = relative(path)
        # Where a GPU is emulated the one with assembly gives way to its twin.
        self.assertEqual(twins, [("kernels/cuda/ptx.cuh", f"{EMULATION}/kernels/cuda/ptx.cuh")])

    def test_two_lines_ask_whether_the_build_has_cuda(self):
        found = {}
        for path in sources(CODE):
            count = len(re.findall(r"^\s*#\s*(?:if|elif).*\bMOETRAIN_CUDA\b", path.read_text(), re.MULTILINE))
            if count:
                found[relative(path)] = count
        self.assertEqual(found, CUDA_BRANCHES)
        told = re.search(r"set_property\(SOURCE (.*) APPEND .*\bMOETRAIN_CUDA\)", (ROOT / "CMakeLists.txt").read_text())
        self.assertEqual(set(told[1].split()), set(CUDA_BRANCHES))  # others would be compiled as if there were none

    def test_nothing_knows_that_a_gpu_is_emulated(self):
        product = {path.name for path in sources(CODE)}
        headers = {path.name for path in sources(["*.h", "*.cuh"], [EMULATION])} - product
        self.assertIn("emulation.h", headers)
        for path in sources(CODE, [*LAYERS, "tests"]):
            if relative(path).startswith(EMULATION + "/"):
                continue
            text = path.read_text()
            for name in re.findall(r'^\s*#\s*include ["<](?:.*/)?([^/">]+)[">]', text, re.MULTILINE):
                self.assertNotIn(name, headers, relative(path))
            branch = re.search(r"^\s*#\s*(?:if|elif).*EMULAT", text, re.MULTILINE)
            self.assertIsNone(branch, f"{relative(path)}: {branch and branch[0]}")

    def test_banned_functions_are_not_called(self):
        call = re.compile(rf"(?<![\w.>])({'|'.join(BANNED)})\s*\(")
        for path in sources(CODE):
            found = call.search(re.sub(r"//.*", "", path.read_text()))
            self.assertIsNone(found, f"{relative(path)} calls {found and found[1]}")

    def test_lines_are_short(self):
        for path in sources(CODE, [*LAYERS, "tests"]):
            free = False  # in tables that clang-format leaves alone
            for number, line in enumerate(path.read_text().split("\n"), 1):
                free = "clang-format off" in line or (free and "clang-format on" not in line)
                self.assertLessEqual(len(line), 130 if free else 100, f"{relative(path)}:{number}")

    def test_sources_are_formatted(self):
        files = [str(path) for path in sources(CODE, [*LAYERS, "tests"])]
        done = subprocess.run(["clang-format", "--dry-run", "--Werror", *files], cwd=ROOT, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, f"clang-format -i would change:\n{done.stderr[:2000]}")

    def test_functions_that_cross_ranks_say_who_must_call_them(self):
        """In comm/ and checkpoint/: "Collective over …" or "Not collective" beside the function or for the whole file."""
        declaration = re.compile(r"^[A-Za-z_][^;{}#=]*\([^;{}]*\)[^;{}]*;", re.MULTILINE)
        for path in sources("*.h", ["comm", "checkpoint"]):
            text = path.read_text()
            head, rest = text.split("#ifndef", 1)
            if re.search("collective", head, re.IGNORECASE):
                continue
            rest = re.sub(r"typedef struct \w+ \{.*?^\} \w+;", "", rest, flags=re.MULTILINE | re.DOTALL)
            for block in re.split(r"\n\s*\n", rest):
                found = declaration.search(re.sub(r"//.*", "", block))
                if found and not found[0].startswith(("typedef", "static", "_Static", "extern")):
                    self.assertRegex(block, r"(?i)collective", f"{relative(path)}: {found[0]}")

    def test_files_are_touched_in_one_place(self):
        """checkpoint/file_io.c: there each call has its message, and tests make each fail. kernels/ reads what the system says."""
        call = re.compile(r"(?<![\w.>])(open|openat|creat|pread|pwrite|ftruncate|fsync|fdatasync|rename|renameat|link|symlink"
                          r"|unlink|mkdir|mkdirat|rmdir|remove)\s*\(|f(?:d?)open\([^;]*\"[wa]\"")
        elsewhere = {"launcher/main.c": "open",  # /dev/null for streams that are closed
                     "launcher/supervisor/control_socket.c": "open",  # a folder, for the address of a socket
                     "launcher/supervisor/rank_launcher.c": "open"}  # /dev/null
        for path in sources("*.c", [folder for folder in LAYERS if folder != "kernels"]):
            name = relative(path)
            text = re.sub(r'"(?:[^"\\]|\\.)*"', lambda word: word[0] if word[0] in ('"w"', '"a"') else '""', path.read_text())
            found = {match[1] or "fopen, fdopen for writing" for match in call.finditer(re.sub(r"//.*", "", text))}
            self.assertEqual(found - {elsewhere.get(name)} if name != "checkpoint/file_io.c" else set(), set(), name)

    def test_missing_memory_is_not_a_bug(self):
        """CHECK ends with the exit code of a bug, CHECK_MEMORY with that of missing memory."""
        for path in sources(CODE):
            found = re.search(r'\bCHECK\((?:[^();]|\([^()]*\))*?,\s*"(?:no|out of) memory', path.read_text())
            self.assertIsNone(found, f"{relative(path)}: {found and found[0]}")

    def test_files_are_short(self):
        for path in sources(CODE, [*LAYERS, "tests"]):
            lines = path.read_text().count("\n")
            self.assertLessEqual(lines, 600, f"{relative(path)} has {lines} lines")

    def test_nothing_in_a_line_waits_for_nobody(self):
        for path in sources(CODE, [*LAYERS, "tests"]):
            self.assertIsNone(re.search(r"\b(TODO|FIXME|XXX)\b", path.read_text()), relative(path))


class Documentation(unittest.TestCase):
    def setUp(self):
        self.readme = (ROOT / "README.md").read_text()

    def test_the_way_of_a_token_leads_through_files_that_exist(self):
        way = re.search(r"^## The way of a token\n(.*?)^## ", self.readme, re.MULTILINE | re.DOTALL)[1]
        names = re.findall(r"`([\w/]+\.[ch])`", way)
        self.assertGreater(len(names), 12)
        for name in names:
            self.assertTrue((ROOT / name).exists(), f"README.md: {name} does not exist")

    def test_the_file_map_names_every_folder_and_only_files_that_exist(self):
        file_map = re.search(r"^## Files\n(.*?)^## ", self.readme, re.MULTILINE | re.DOTALL)[1]
        for layer in LAYERS:
            self.assertIn(f"`{layer}/", file_map)
        for name in re.findall(r"`([\w./-]+/[\w.-]*)`", file_map):
            self.assertTrue((ROOT / name).exists(), f"README.md: {name} does not exist")

    def test_links_lead_somewhere(self):
        for name in ("README.md", "CONTRIBUTING.md"):
            for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text()):
                self.assertTrue((ROOT / target).exists(), f"{name} links to {target}")

    def test_contributing_names_presets_labels_and_files_that_exist(self):
        text = (ROOT / "CONTRIBUTING.md").read_text()
        for path in re.findall(rf"(?<![\w/.])((?:{'|'.join(LAYERS)}|tests|configs)/[\w./-]*\w)", text):
            self.assertTrue((ROOT / path).exists(), f"CONTRIBUTING.md: {path}")
        presets = json.loads((ROOT / "CMakePresets.json").read_text())
        tables = re.split(r"^\|---.*$", text, flags=re.MULTILINE)[1:]
        named = [set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\|([^|]*)", table, re.MULTILINE)))) for table in tables]
        self.assertEqual(named[0], {preset["name"] for preset in presets["configurePresets"]} - {"base"})
        folders = {path.parent.name for path in (ROOT / "tests").glob("*/CMakeLists.txt")}
        self.assertEqual(named[1], (folders - {"bench"}) | {"device", "quick"})

    def test_keys_in_readme_and_configs_exist(self):
        program = os.environ["MOETRAIN"]
        keys = set(re.findall(r"^  ([a-z][\w.]*) ", subprocess.run(
            [program, "help"], capture_output=True, text=True, check=True).stdout, re.MULTILINE))
        sections = {key.split(".")[0] for key in keys if "." in key}
        self.assertGreater(len(keys), 50)
        for key in re.findall(rf"`((?:{'|'.join(sections)})\.\w+)(?:[=:][^`]*)?`", self.readme):
            if not (ROOT / key).exists() and not key.endswith((".c", ".h")):
                self.assertIn(key, keys, f"README.md: {key}")
        for config in (ROOT / "configs").glob("*.yaml"):
            done = subprocess.run([program, "--print-config", config], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
