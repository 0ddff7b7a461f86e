"""What `imaging` does to one field's pixels, done to a batch of them on a device: the same steps as torch operations.

For cards. Whatever is the same for every pixel is here: decoding, reduction, white balance, stain, threshold, the
network's views. What is done nucleus by nucleus (contours, splitting, joining, measures) stays with OpenCV on the host,
as what a finding keeps of a leukocyte is its contour: `imaging.segment.segmented` takes over from here.

All of it runs on the CPU as well, where tests hold it against OpenCV. Importing these modules imports torch: nothing
but the path of a card does.
"""
