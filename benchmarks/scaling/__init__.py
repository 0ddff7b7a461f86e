"""What screening costs beyond one machine: measured constants, a cost model, a simulation, and checks of both.

python -m benchmarks.scaling measure      measures every constant again and writes constants.json
python -m benchmarks.scaling simulate     prints the tables of docs/scaling.md (--write puts them there)
python -m benchmarks.scaling check        runs real workers, also over a shaped link, beside what was predicted
"""
