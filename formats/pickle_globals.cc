// Two tables. The harmless one follows what torch.load(weights_only=True) of torch 2.11 accepts; the dangerous one names
// modules and functions that appear in published malicious pickles and in the advisories of the scanners. Nothing is
// decided by these tables but the words in a report: the interpreter calls nothing, listed or not.
#include "miq/formats/pickle_globals.h"

#include <algorithm>
#include <iterator>

namespace miq {
namespace {

struct Row {
  std::string_view module;
  std::string_view names;  // separated by spaces; empty: every name
};

constexpr Row kHarmless[] = {
    {"collections", "OrderedDict Counter"}, {"torch.nn.parameter", "Parameter Buffer UninitializedParameter UninitializedBuffer"},
    {"torch.serialization", "_get_layout"},
    {"torch",
     "Size Tensor device per_tensor_affine per_tensor_symmetric per_channel_affine per_channel_symmetric "
     "per_channel_affine_float_qparams"},
    {"torch",
     "float float16 float32 float64 half double bfloat16 bool uint8 int8 short int16 int int32 long int64 uint16 uint32 uint64 "
     "complex32 complex64 complex128 chalf cfloat cdouble qint8 quint8 qint32 quint4x2 quint2x4 float8_e4m3fn float8_e5m2 "
     "float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2 bits8 bits16 bits1x8 bits2x4 bits4x2"},
    {"torch",
     "FloatStorage DoubleStorage HalfStorage BFloat16Storage LongStorage IntStorage ShortStorage CharStorage ByteStorage BoolStorage "
     "ComplexFloatStorage ComplexDoubleStorage QInt8Storage QUInt8Storage QInt32Storage QUInt4x2Storage QUInt2x4Storage"},
    {"torch.cuda",
     "FloatStorage DoubleStorage HalfStorage BFloat16Storage LongStorage IntStorage ShortStorage CharStorage ByteStorage BoolStorage "
     "ComplexFloatStorage ComplexDoubleStorage"},
    {"torch.storage", "UntypedStorage TypedStorage"},
    {"torch._utils",
     "_rebuild_parameter _rebuild_parameter_with_state _rebuild_qtensor _rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 "
     "_rebuild_sparse_tensor _rebuild_meta_tensor_no_storage _rebuild_nested_tensor _rebuild_wrapper_subclass "
     "_rebuild_device_tensor_from_numpy _rebuild_device_tensor_from_cpu_tensor"},
    {"torch._tensor", "_rebuild_from_type_v2"}, {"_codecs", "encode"}, {"builtins", "bytearray set complex"},
};

constexpr Row kDangerous[] = {
    {"builtins",
     "eval exec execfile compile open __import__ getattr setattr delattr globals locals vars input breakpoint apply map filter help "
     "exit quit"},
    {"dill._dill",
     "_create_function _create_code _create_filehandle _create_stringi _create_stringo _import_module _eval_repr _getattr _setattr "
     "_get_attr _unmarshal _create_capsule _create_dtypemeta load loads __import__ _create_ftype _load_type"},
    {"dill", ""}, {"cloudpickle.cloudpickle", ""}, {"cloudpickle.cloudpickle_fast", ""}, {"cloudpickle", ""},
    {"torch", "load save compile _dynamo jit hub ops classes"}, {"torch.storage", "_load_from_bytes"},
    {"torch.serialization", "load save _legacy_load _load"}, {"torch.fx.graph_module", ""}, {"torch.utils.cpp_extension", ""},
    {"torch.utils.collect_env", ""}, {"torch.utils._config_module", ""}, {"torch.utils.data.datapipes.utils.decoder", ""},
    {"torch._inductor.codecache", ""}, {"torch._dynamo.guards", ""}, {"torch.distributed.rpc.internal", ""},
    {"torch.distributed.rpc.server_process_global_profiler", ""}, {"torch.package.package_importer", ""},
    {"torch.package", ""}, {"torch.fx.experimental.symbolic_shapes", ""}, {"sympy.parsing.sympy_parser", ""},
    {"pandas.core.computation.eval", ""}, {"pandas", "eval read_pickle"},
    {"torch._utils", "_import_dotted_name"}, {"torch.testing._internal.common_utils", ""}, {"numpy", "load fromfile memmap"},
    {"numpy.testing._private.utils", ""}, {"numpy.lib.npyio", ""}, {"joblib", ""}, {"joblib.numpy_pickle", ""},
    {"operator", "attrgetter methodcaller itemgetter call"}, {"_operator", "attrgetter methodcaller itemgetter call"},
    {"functools", "partial reduce partialmethod"}, {"_functools", "partial reduce"}, {"itertools", "starmap"},
    {"types", "FunctionType CodeType LambdaType MethodType ModuleType DynamicClassAttribute"}, {"codecs", "open"},
    {"io", "open open_code FileIO"}, {"_io", "open open_code FileIO"}, {"linecache", ""}, {"fileinput", ""}, {"tempfile", ""},
    {"inspect", ""}, {"gc", ""}, {"weakref", "finalize"}, {"atexit", ""}, {"getpass", ""}, {"uuid", "_get_command_stdout _popen"},
    {"platform", "popen _syscmd_file _syscmd_ver"},
};

// These, with all that is in them and below them.
constexpr std::string_view kDangerousPackages[] = {
    "os", "posix", "posixpath", "nt", "ntpath", "sys", "subprocess", "_posixsubprocess", "pty", "tty", "socket", "_socket", "socketserver",
    "ssl", "shutil", "runpy", "importlib", "_frozen_importlib", "_frozen_importlib_external", "imp", "zipimport", "pkgutil", "ctypes",
    "_ctypes", "cffi", "code", "codeop", "pickle", "_pickle", "marshal", "shelve", "dbm", "sqlite3", "asyncio", "multiprocessing",
    "_multiprocessing", "threading", "_thread", "concurrent", "signal", "faulthandler", "pdb", "bdb", "profile", "cProfile", "timeit",
    "trace", "doctest", "unittest", "idlelib", "lib2to3", "distutils", "setuptools", "pip", "ensurepip", "venv", "site", "pydoc", "logging",
    "webbrowser", "urllib", "http", "httplib", "ftplib", "smtplib", "telnetlib", "imaplib", "poplib", "nntplib", "xmlrpc", "requests",
    "aiohttp", "httpx", "urllib3", "paramiko", "cgi", "cgitb", "pathlib", "glob", "tarfile", "zipfile", "gzip", "bz2", "lzma", "mmap",
    "resource", "fcntl", "pwd", "spwd", "crypt", "rlcompleter", "readline", "antigravity", "this", "turtle", "tkinter", "_tkinter",
    "wsgiref", "pyclbr", "modulefinder", "compileall", "py_compile", "jinja2", "yaml", "IPython", "nbformat", "winreg", "_winreg", "msvcrt",
    "torch.hub", "torch.jit", "torch.ops", "torch.classes", "torch.utils.bottleneck", "numpy.f2py", "numpy.distutils", "test",
    "_osx_support", "_aix_support", "_pyrepl",
};

bool lists(std::string_view names, std::string_view name) {
  while (!names.empty()) {
    const std::size_t space = std::min(names.find(' '), names.size());
    if (names.substr(0, space) == name) return true;
    names.remove_prefix(std::min(space + 1, names.size()));
  }
  return false;
}

bool in_table(std::span<const Row> table, std::string_view module, std::string_view name) {
  return std::any_of(table.begin(), table.end(),
                     [&](const Row& row) { return row.module == module && (row.names.empty() || lists(row.names, name)); });
}

}  // namespace

std::string_view risk_name(GlobalRisk risk) {
  switch (risk) {
    case GlobalRisk::Harmless: return "harmless";
    case GlobalRisk::RunsCode: return "runs code";
    default: return "dangerous";
  }
}

GlobalRisk global_risk(std::string_view module, std::string_view name) {
  if (in_table(kHarmless, module, name)) return GlobalRisk::Harmless;
  for (const std::string_view package : kDangerousPackages) {
    if (module == package || (module.starts_with(package) && module.substr(package.size()).starts_with('.'))) return GlobalRisk::Dangerous;
  }
  // STACK_GLOBAL can reach through a module or class: torch, "os.system".
  const std::string_view outer = name.substr(0, name.find('.'));
  if (in_table(kDangerous, module, name) || in_table(kDangerous, module, outer)) return GlobalRisk::Dangerous;
  if (outer.size() != name.size()) {
    for (const std::string_view package : kDangerousPackages) {
      if (outer == package) return GlobalRisk::Dangerous;
    }
  }
  return GlobalRisk::RunsCode;
}

}  // namespace miq
