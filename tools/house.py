"""The house rules, counted: how long, how dense, how tangled the package is.

    python tools/house.py            a table
    python tools/house.py --check    exit status 1 where a limit is passed

Only what the notebooks export is measured, not the notebooks' tests and pages."""
import ast
import json
import re
import sys
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = 'dla_nb'
MAX_COLUMNS = 100
#: The largest value that each count may have.
LIMITS = {
    'library lines': 13_000,  # 7,000 before LocalStats, DLA+, the five competitors and people's inputs
    'public names': 220,      # 150 before these
    'operations a statement': 1.4,
    f'lines over {MAX_COLUMNS} columns': 0,
    'circles of imports': 0,
    'circles through imports inside functions': 0,
    "imports against the notebooks' order": 0,
    '** parameters without a reason': 0,
    'requirements that do not match the imports': 0,
    'versions that differ': 0,
}
#: Functions that may take **, and why no typo can get lost in it.
CHECKED = {
    'core.BaseRecipe.__new__': 'unknown fields are errors that name the nearest one',
    'core.BaseRecipe.but': 'goes to __new__',
    'experiments.Scale.but': 'goes to dataclasses.replace, which refuses what it does not know',
    'losses._check_shapes': 'any name is right: it is what the error says',
    'method.Method.__init__': 'goes to BaseRecipe.but',
    'method.Method.__init_subclass__': "goes to Python's own, which refuses what it does not know",
}
#: Requirements that no line of the package imports, and why they are there.
NOT_IMPORTED = {
    'onnx': 'torch.onnx.export writes with it',
    'onnxscript': 'torch.onnx.export needs it',
    'onnxruntime': 'runs the exported model',
}
#: Imports that are not required, and why.
NOT_REQUIRED = {'IPython': 'only where IPython itself calls, to show a figure'}
#: Packages whose import has another name than the requirement.
DISTRIBUTIONS = {'PIL': 'pillow', 'sklearn': 'scikit-learn', 'skimage': 'scikit-image'}
OPERATIONS = (
    ast.Call, ast.BinOp, ast.BoolOp, ast.UnaryOp, ast.Compare, ast.Subscript, ast.IfExp, ast.Lambda, ast.AugAssign,
    ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass
class Module:
    "One file of the package."
    name: str                 # 'methods.dla'; '' for the package itself
    text: str
    tree: ast.Module

    @property
    def full_name(self) -> str:
        return f'{PACKAGE}.{self.name}' if self.name else PACKAGE


def read_modules() -> list:
    "All modules of the package but nbdev's index."
    modules = []
    for path in sorted((ROOT/PACKAGE).rglob('*.py')):
        if path.name != '_modidx.py':
            parts = path.relative_to(ROOT/PACKAGE).with_suffix('').parts
            name = '.'.join(part for part in parts if part != '__init__')
            text = path.read_text(encoding='utf-8')
            modules.append(Module(name, text, ast.parse(text)))
    return modules


# ------------------------------------------------------------------------------------------------ size and density


def public_names(module: Module) -> list:
    "What `__all__` lists."
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__':
            return [element.value for element in node.value.elts]
    return []


def annotation_nodes(tree: ast.AST) -> set:
    "Ids of all nodes inside annotations, which are no operations."
    inside = set()
    for node in ast.walk(tree):
        for annotation in (getattr(node, 'annotation', None), getattr(node, 'returns', None)):
            if annotation is not None:
                inside.update(id(part) for part in ast.walk(annotation))
    return inside


def density(module: Module) -> tuple:
    "(operations, statements): calls, operators, subscripts, conditions, comprehensions; docstrings are not counted."
    skipped = annotation_nodes(module.tree)
    operations = statements = 0
    for node in ast.walk(module.tree):
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        statements += isinstance(node, ast.stmt) and not is_docstring
        operations += isinstance(node, OPERATIONS) and id(node) not in skipped
    return operations, statements


def long_lines(module: Module) -> list:
    "'core:12' for every line that is too long; not the module's docstring and `__all__`, which nbdev writes."
    written = set()
    for node in module.tree.body[:2]:
        written.update(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(module.text.splitlines(), 1)
    return [f'{module.name}:{i}' for i, line in lines if len(line) > MAX_COLUMNS and i not in written]


# ------------------------------------------------------------------------------------------------ imports


def lazy_nodes(tree: ast.AST) -> set:
    "Ids of all nodes inside functions: they run later than the module."
    return {id(part) for node in ast.walk(tree) if isinstance(node, FUNCTIONS) for part in ast.walk(node)}


def imported(module: Module) -> list:
    "(full name of a module, is the import inside a function) for each import."
    lazy = lazy_nodes(module.tree)
    found = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in lazy) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module.full_name.split('.')[:-node.level] if node.level else []
            base = '.'.join([*package, node.module] if node.module else package)
            found.append((base, id(node) in lazy))
            found += [(f'{base}.{alias.name}', id(node) in lazy) for alias in node.names]   # it may be a module
    return found


def package_imports(modules: list) -> list:
    "(importing module, imported module, is it inside a function), within the package."
    names = {module.full_name: module.name for module in modules if module.name}
    return [(module.name, names[name], lazy) for module in modules for name, lazy in imported(module)
            if name in names and names[name] != module.name]


def circles(edges: list) -> list:
    "Modules that can be reached from themselves."
    targets = {}
    for source, target in edges:
        targets.setdefault(source, set()).add(target)

    def reachable(start: str) -> set:
        seen, todo = set(), [start]
        while todo:
            for target in targets.get(todo.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        return seen
    return sorted(name for name in targets if name in reachable(name))


def reading_order() -> dict:
    "module -> place of its notebook."
    order = {}
    for path in sorted((ROOT/'nbs').rglob('*.ipynb'), key=lambda p: p.name):
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            for name in re.findall(r'^#\|\s*default_exp\s+(\S+)', ''.join(cell['source']), re.M):
                order[name] = len(order)
    return order


def against_order(edges: list) -> list:
    "Imports of a module whose notebook comes later. Files without a notebook (`__init__`, `__main__`) may import any."
    order = reading_order()
    return sorted({f'{source} imports {target}' for source, target in edges
                   if source in order and order[source] <= order.get(target, -1)})


# ------------------------------------------------------------------------------------------------ errors that get lost


def starred_functions(module: Module) -> list:
    "Names of functions with a ** parameter, with their class."
    found = []

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = f'{prefix}.{child.name}' if hasattr(child, 'name') and isinstance(child, ast.stmt) else prefix
            if isinstance(child, FUNCTIONS) and child.args.kwarg:
                found.append(name)
            visit(child, name)
    visit(module.tree, module.name)
    return found


def requirement_problems(modules: list, settings) -> list:
    "Imports without a requirement, and requirements without an import."
    extras = ('requirements', 'onnx_requirements', 'ray_requirements')
    words = ' '.join(settings.get(extra, '') for extra in extras).split()
    required = {re.split(r'[<>=!~\[]', word)[0] for word in words}
    tops = {name.split('.')[0] for module in modules for name, _ in imported(module)}
    outside = tops - set(sys.stdlib_module_names) - set(NOT_REQUIRED) - {PACKAGE, ''}
    used = {DISTRIBUTIONS.get(top, top) for top in outside}
    missing = [f'{name} is imported and not required' for name in sorted(used - required)]
    idle = [f'{name} is required and not imported' for name in sorted(required - used - set(NOT_IMPORTED))]
    return missing + idle


def version_problems(modules: list, settings) -> list:
    "nbdev reads the version from `__init__`, setup.py from settings.ini."
    init = next(module for module in modules if not module.name)
    version = re.search(r'^__version__ = "(.+)"', init.text, re.M)
    here = version[1] if version else 'none'
    return [] if here == settings['version'] else [f'{here} in __init__.py, {settings["version"]} in settings.ini']


# ------------------------------------------------------------------------------------------------ the table


def measure() -> dict:
    "name -> a number, or the list of what breaks the rule."
    modules = read_modules()
    parser = ConfigParser(delimiters=['='])
    parser.read(ROOT/'settings.ini', encoding='utf-8')
    settings = parser['DEFAULT']
    densities = [density(module) for module in modules]
    edges = package_imports(modules)
    at_import = [(source, target) for source, target, lazy in edges if not lazy]
    every = [(source, target) for source, target, _ in edges]
    starred = [name for module in modules for name in starred_functions(module)]
    values = [
        sum(len(module.text.splitlines()) for module in modules),
        len({name for module in modules for name in public_names(module)}),   # `all` repeats some
        sum(operations for operations, _ in densities)/sum(statements for _, statements in densities),
        [line for module in modules for line in long_lines(module)],
        circles(at_import),
        [name for name in circles(every) if name not in circles(at_import)],
        against_order(every),
        [name for name in starred if name not in CHECKED],
        requirement_problems(modules, settings),
        version_problems(modules, settings),
    ]
    return dict(zip(LIMITS, values, strict=True))


def main() -> int:
    passed = True
    for name, value in measure().items():
        listed = value if isinstance(value, list) else []
        count = len(value) if isinstance(value, list) else value
        passed &= count <= LIMITS[name]
        number = f'{count:,.2f}' if isinstance(count, float) else f'{count:,}'
        print(f'{"" if count <= LIMITS[name] else "!":2}{name:45}{number:>8}   limit {LIMITS[name]:,}')
        for line in listed[:20]:
            print(f'      {line}')
        if len(listed) > 20:
            print(f'      and {len(listed) - 20} more')
    return 0 if passed or '--check' not in sys.argv else 1


if __name__ == '__main__':
    sys.exit(main())
