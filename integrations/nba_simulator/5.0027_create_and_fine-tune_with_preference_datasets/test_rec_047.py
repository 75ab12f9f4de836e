"""Tests of rec_047; run ``python test_rec_047.py -v`` or pytest, here or in a copy of this folder."""

from __future__ import annotations

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from implement_rec_047 import CreateAndFinetuneWithPreferenceDatasets


class TestCreateAndFinetuneWithPreferenceDatasets(unittest.TestCase):
    """The contract of every implement_rec module; the job itself runs once for the class."""

    executed: CreateAndFinetuneWithPreferenceDatasets

    @classmethod
    def setUpClass(cls) -> None:
        cls.executed = CreateAndFinetuneWithPreferenceDatasets()
        cls.executed.setup()
        cls.results = cls.executed.execute()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.executed.cleanup()

    def setUp(self) -> None:
        self.implementation = CreateAndFinetuneWithPreferenceDatasets()

    def tearDown(self) -> None:
        self.implementation.cleanup()

    def test_initialization(self) -> None:
        self.assertIsNotNone(self.implementation)
        self.assertFalse(self.implementation.initialized)

    def test_setup(self) -> None:
        result = self.implementation.setup()
        self.assertTrue(result["success"], result["message"])
        self.assertTrue(self.implementation.initialized)

    def test_execute_without_setup(self) -> None:
        with self.assertRaises(RuntimeError):
            self.implementation.execute()

    def test_execute_with_setup(self) -> None:
        self.assertTrue(self.results["success"], self.results["message"])

    def test_validate(self) -> None:
        self.assertTrue(self.executed.validate())

    def test_cleanup(self) -> None:
        self.implementation.setup()
        self.implementation.cleanup()
        self.assertFalse(self.implementation.initialized)


def run_tests() -> bool:
    """Whether all tests pass."""
    suite = unittest.TestLoader().loadTestsFromTestCase(TestCreateAndFinetuneWithPreferenceDatasets)
    return unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful()


if __name__ == "__main__":
    sys.exit(0 if run_tests() else 1)
