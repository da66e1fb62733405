/** Before every test file: the backend that people get who import the library. */
import "../../core/backends/select.ts";
