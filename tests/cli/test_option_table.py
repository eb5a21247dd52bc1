"""tests/bench/option_table.py: its rows are the program's words, and what it measures is a table."""

import csv
import pathlib
import subprocess
import sys

from program import HANG_SECONDS, ProgramTest, main

BENCH = pathlib.Path(__file__).resolve().parents[1] / "bench"
SMALL = ["model.d_model=16", "moe.d_ff=16", "moe.experts=4", "train.context=8"]
sys.path.insert(0, str(BENCH))
import option_table  # noqa: E402


class OptionTableTest(ProgramTest):
    def test_every_row_that_is_written_down_is_a_word_that_the_program_takes(self):
        names = {name: keys for name, keys in option_table.options([])}
        for name in [*option_table.NEEDS, *option_table.REASONS]:
            self.assertTrue(name in names, name)
        written = [names[name] for name in option_table.NEEDS] + list(option_table.NUMBERS)
        for keys in written:
            words = [f"{key}={value}" for key, value in {**option_table.BASE, **keys}.items()]
            plan = self.run_program("plan", self.write_tiny(), "-np", "1", *words)
            self.assert_done(plan)

    def test_a_row_has_time_memory_and_ratios_and_a_refused_one_its_reason(self):
        words = ["--rounds", "1", "--steps", "2", "--csv", "table.csv", "--set", *SMALL]
        keys = ["moe.router=sigmoid", "attention.kv_heads"]
        done = subprocess.run(
            [
                sys.executable,
                "-B",
                BENCH / "option_table.py",
                *words,
                "attention.heads=1",
                "--keys",
                *keys,
            ],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=4 * HANG_SECONDS,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        with open(self.path("table.csv"), newline="") as file:
            measured, refused = csv.DictReader(file)
        self.assertEqual(measured["option"], "moe.router=sigmoid")
        for column in ("step_ratio", "evaluation_ratio", "peak_ratio"):
            self.assertGreater(float(measured[column]), 0)
        self.assertEqual(refused["step_ms"], "")  # two key heads of one query head
        self.assertIn("attention.kv_heads", refused["note"])


if __name__ == "__main__":
    main()
