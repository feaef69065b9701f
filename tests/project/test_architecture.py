"""How modules may import each other; that packages import only packages below them is a contract in setup.cfg."""

from __future__ import annotations

from graphlib import TopologicalSorter

import grimp


def test_no_module_imports_itself_by_way_of_others_not_even_inside_functions() -> None:
    graph = grimp.build_graph("orchestrator", "trainer", exclude_type_checking_imports=True, cache_dir=None)
    assert len(graph.modules) > 150
    # Run as a program, `trainer.child` imports itself under its name.
    imports = {module: graph.find_modules_directly_imported_by(module) - {module} for module in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError with the circle
