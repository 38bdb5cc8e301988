# A detector from good images: the same as first_detector.py, on the command line
python -c "from dla_nb.all import make_toy; make_toy('toy', 'tablet', 96)"
dla-nb check toy/tablet                                  # what is there, and what is odd
dla-nb train toy/tablet --preset demo --set epochs=6     # runs/tablet.safetensors
dla-nb predict runs/tablet.safetensors toy/tablet/test   # predictions/: scores.csv, overlays, masks
dla-nb report runs/tablet.safetensors toy/tablet/test    # one HTML file
