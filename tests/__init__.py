"""Tests. Contract suites are plain modules: registered here, so that their failed asserts explain themselves."""

import pytest

pytest.register_assert_rewrite("tests.contract_store")
