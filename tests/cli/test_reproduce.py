"""configs/reproduce: its configurations are accepted, and its script trains, measures, prints and
plots.
"""

import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree

from program import HANG_SECONDS, PROGRAM, ProgramTest, main

REPRODUCE = pathlib.Path(__file__).resolve().parents[2] / "configs/reproduce"
SMALL = [
    "model.d_model=16",
    "model.layers=1",
    "attention.heads=2",
    "attention.kv_heads=2",
    "model.d_ff=16",
    "train.batch=2",
    "train.context=16",
]
sys.path.insert(0, str(REPRODUCE))
from reproduce import EXPERIMENTS, write_section  # noqa: E402


class ReproduceTest(ProgramTest):
    def reproduce(self, *words):
        """Each call has the time that one program has elsewhere for each that it starts."""
        done = subprocess.run(
            [
                sys.executable,
                "-B",
                REPRODUCE / "reproduce.py",
                *words,
                "--folder",
                "runs",
                "--at-once",
                "1",
            ],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=4 * HANG_SECONDS,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def cells(self, printed):
        """The lines of the printed table, by column."""
        lines = [
            [cell.strip() for cell in line.strip("|\n").split("|")]
            for line in printed.splitlines()
            if line[:1] == "|"
        ]
        return [dict(zip(lines[0], line)) for line in lines[2:]]

    def test_every_row_of_every_table_is_a_configuration_that_the_program_takes(self):
        taken = set()
        for name, experiment in EXPERIMENTS.items():
            for row in experiment.rows:
                with self.subTest(name=name, row=row.label):
                    words = [f"{key}={value}" for key, value in row.keys.items()]
                    plan = self.run_program(
                        "plan",
                        str(REPRODUCE / row.config),
                        "-np",
                        "1",
                        "data.train=train.txt",
                        "data.validation=train.txt",
                        *words,
                    )
                    self.assert_done(plan)
                    taken.add(row.config)
        self.assertEqual(taken, {path.name for path in REPRODUCE.glob("*.yaml")})

    def test_equal_active_parameters_are_equal(self):
        """Within 2 %: a router has parameters that a dense layer lacks. makemoe: the modern one has
        no more.
        """
        active = {}
        for name, experiment in EXPERIMENTS.items():
            for i, row in enumerate(experiment.rows):
                plan = self.run_program(
                    "plan",
                    str(REPRODUCE / row.config),
                    "-np",
                    "1",
                    "data.train=train.txt",
                    "data.validation=train.txt",
                    *(f"{k}={v}" for k, v in row.keys.items()),
                )
                active[name, i] = int(re.search(r"(\d+) active", plan.out)[1])
        for (name, i), count in active.items():
            with self.subTest(name=name, row=i):
                first = active[name, 0]
                self.assertLessEqual(count, 1.02 * first if name != "makemoe" else 1.005 * first)

    def test_a_table_has_ours_and_the_published_figure_and_is_not_trained_twice(self):
        words = [
            "nanogpt",
            "--text",
            "train.txt",
            "--steps",
            "3",
            "--seeds",
            "2",
            "--rows",
            "1",
            *SMALL,
        ]
        first = self.reproduce(*words)
        self.assertEqual(first.count("training "), 3, first)  # two runs, and a column
        (row,) = self.cells(first)
        self.assertEqual(row["seeds"], "2")
        self.assertEqual(row["published"], "1.88")
        whole = float(row["validation loss, whole text"].split(" ")[0])
        self.assertAlmostEqual(
            whole, float(row["validation loss, random windows"].split(" ")[0]), delta=0.2
        )
        second = self.reproduce(*words)
        self.assertEqual(second.count("training "), 1, second)
        self.assertEqual(self.cells(second), [row])
        svg = xml.etree.ElementTree.parse(self.path("runs/nanogpt/nanogpt.svg")).getroot()
        self.assertTrue(svg.tag.endswith("svg"))

    def test_times_stand_beside_dense(self):
        rows = self.cells(
            self.reproduce(
                "switch",
                "--steps",
                "2",
                "--rows",
                "1,2",
                "data.train=train.txt",
                "data.validation=train.txt",
                *SMALL,
            )
        )
        self.assertEqual(rows[0]["times the first row's, median (least)"], "1.00 (1.00)")
        self.assertRegex(
            rows[1]["times the first row's, median (least)"], r"^\d+\.\d\d \(\d+\.\d\d\)$"
        )
        self.assertTrue(pathlib.Path(self.path("runs/switch/switch_time.svg")).exists())

    def test_balance_is_read_from_the_history_of_the_last_steps(self):
        (row,) = self.cells(
            self.reproduce(
                "balance",
                "--steps",
                "4",
                "--rows",
                "2",
                "data.train=train.txt",
                "data.validation=train.txt",
                *SMALL,
            )
        )
        # Some expert has more than its share, and none more than all tokens: 64 experts, each token
        # at 6 of them.
        for column in ("MaxVio, last 1000 steps", "MaxVio, validation text"):
            self.assertGreater(float(row[column]), 0)
            self.assertLess(float(row[column]), 64 / 6)

    def test_only_the_named_section_of_a_readme_changes(self):
        name = self.path("README.md")
        begin, end = "<!-- switch: written by reproduce.py -->", "<!-- switch: end -->"
        pathlib.Path(name).write_text(f"before\n{begin}\nold\n{end}\nafter\n")
        write_section(pathlib.Path(name), "switch", "new\n")
        self.assertEqual(pathlib.Path(name).read_text(), f"before\n{begin}\nnew\n{end}\nafter\n")


if __name__ == "__main__":
    main()
