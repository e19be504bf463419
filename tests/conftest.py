"""What holds for all tests."""

# pytest imports it when something is left open, in the middle of whatever runs then;
# inside of TensorFlow Datasets' lazy imports that fails, and with it the test.
import tracemalloc  # noqa: F401
