"""Compare dances in one table, with intervals and paired tests: conf/evaluate.yaml lists every option.

python evaluate.py                                         # all shipped models on the world's test songs
python evaluate.py ckpt=[A,B] videos=[DIR1,DIR2] protocol=world-v1
python evaluate.py export_inputs=DIR                       # what other systems need to make videos for such a table
"""

from zoo.cli import evaluate

if __name__ == "__main__":
    evaluate()
