"""The app: a page in the browser that searches a folder of images (`clipalign app`)."""
