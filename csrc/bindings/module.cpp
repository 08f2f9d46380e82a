// SPDX-License-Identifier: MIT
// The Python module l1sparse._C: importing it registers the operators of ops.cpp; its few functions
// tell and choose the instruction set.
#include <Python.h>

#include "base/isa.h"

namespace {

using l1sparse::Isa;

PyObject* names_where(bool (*accept)(Isa)) {
  PyObject* names = PyList_New(0);
  for (int i = 0; names != nullptr && i < l1sparse::kIsaCount; ++i) {
    const Isa isa = static_cast<Isa>(i);
    if (!accept(isa)) continue;
    PyObject* name = PyUnicode_FromString(l1sparse::isa_name(isa));
    if (name == nullptr || PyList_Append(names, name) != 0) Py_CLEAR(names);
    Py_XDECREF(name);
  }
  return names;
}

PyObject* compiled_isas(PyObject*, PyObject*) {
  return names_where([](Isa) { return true; });
}

PyObject* usable_isas(PyObject*, PyObject*) { return names_where(l1sparse::isa_usable); }

PyObject* selected_isa(PyObject*, PyObject*) {
  return PyUnicode_FromString(l1sparse::isa_name(l1sparse::selected_isa()));
}

PyObject* select_isa(PyObject*, PyObject* name) {
  PyObject* bytes = PyUnicode_AsUTF8String(name);
  if (bytes == nullptr) return nullptr;
  const char* text = PyBytes_AsString(bytes);
  const bool selected = text != nullptr && l1sparse::select_isa(text);
  Py_DECREF(bytes);
  return text == nullptr ? nullptr : PyBool_FromLong(selected);
}

PyMethodDef methods[] = {
    {"compiled_isas", compiled_isas, METH_NOARGS, "Names of the instruction sets compiled in."},
    {"usable_isas", usable_isas, METH_NOARGS, "Those of them that this processor runs."},
    {"selected_isa", selected_isa, METH_NOARGS, "The instruction set that kernels run on."},
    {"select_isa", select_isa, METH_O, "Force one by name ('' = the best); False if not usable."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&module); }
