/** Before every test file: the backend that people get who import the library, and FORCE_JIT. */
import "../../core/backends/select.ts";
import "./force_jit.ts";
