"""The kernel of this Python, for `dvc repro` and JupyterLab. jupyter_server_config.py names this class."""

from ipykernel.kernelspec import KERNEL_NAME, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager


class ThisInterpreter(KernelSpecManager):
    """Finds the kernel of this Python under the name of the notebooks' kernel, whatever is installed under it."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The kernel writes the output of C libraries to its own standard error, line by line, and not to cells."""
        if kernel_name != KERNEL_NAME:
            return super().get_kernel_spec(kernel_name)
        return KernelSpec(**get_kernel_dict(extra_arguments=["--IPKernelApp.capture_fd_output=False"]))
